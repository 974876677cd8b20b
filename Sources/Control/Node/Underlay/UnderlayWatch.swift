import Addresses
import Health
import Reconciler

/// Keeps the underlay that was chosen for as long as it qualifies, and somewhat longer. Whatever fits better
/// meanwhile is no reason to leave what works: each change costs all peers' packets until they were told the new
/// address.
struct UnderlayWatch {
    /// What is in use.
    private(set) var underlay: Underlay

    /// What is wrong with it; nil where nothing is.
    private(set) var problem: Problem?

    /// When to look again, though nothing may be told until then; nil where that is not needed.
    private(set) var nextLook: ContinuousClock.Instant?

    /// How long the underlay must be away before another one takes over: longer than a DHCP client, a network manager
    /// or a driver takes its address away for. What comes back within it changes nothing.
    private let patience: Duration

    /// How long it must be away before that is called a problem.
    private let silence: Duration

    /// What was chosen at the start, to say that another took over.
    private var first: Underlay
    private var awaySince: ContinuousClock.Instant?
    private var withoutCarrierSince: ContinuousClock.Instant?

    /// Begins with what was chosen.
    init(_ underlay: Underlay, patience: Duration = .seconds(5), silence: Duration = .seconds(1)) {
        self.underlay = underlay
        self.patience = patience
        self.silence = min(silence, patience)
        first = underlay
    }

    /// Looks at it.
    ///
    /// - Parameter chosen: what would be chosen anew, asked for only where that matters.
    mutating func look(
        _ choice: UnderlayChoice, now: ContinuousClock.Instant,
        choosing chosen: () -> Result<Underlay, UnderlayError>
    ) {
        nextLook = nil
        switch choice.standing(of: underlay) {
        case .good(let current):
            underlay = current
            awaySince = nil
            problem = publicAddressProblem(choice) ?? carrierProblem(choice, now) ?? substitutionProblem
        case .excluded(let reason):
            let isFirst = underlay == first
            replace(reason, .cutOff, choice, chosen())
            // Where the first choice was made before the overlay was known, it was none.
            if isFirst, underlay != first {
                first = underlay
                problem = publicAddressProblem(choice)
            }
        case .away(let reason, let cutsOff):
            let since = awaySince ?? now
            awaySince = since
            if now - since >= patience {
                replace(reason, cutsOff ? .cutOff : .degraded, choice, chosen())
            } else {
                let isTold = now - since >= silence
                nextLook = since + (isTold ? patience : silence)
                if isTold {
                    problem = Problem(
                        cutsOff ? .cutOff : .degraded, reason,
                        remedy:
                            "bring it back; after \(patience) another interface that fits the flags takes over"
                    )
                }
            }
        }
    }

    private mutating func replace(
        _ reason: String, _ effect: Problem.Effect, _ choice: UnderlayChoice,
        _ chosen: Result<Underlay, UnderlayError>
    ) {
        switch chosen {
        case .success(let other):
            guard case .good(let current) = choice.standing(of: other) else {
                problem = Problem(effect, reason, remedy: "bring it back; no other interface fits the flags")
                return
            }
            underlay = current
            awaySince = nil
            problem = publicAddressProblem(choice) ?? substitutionProblem
        case .failure(let error):
            problem = Problem(effect, reason, remedy: "bring it back, or name another interface: \(error)")
        }
    }

    /// The address that others are told must not be one that they route into the tunnel.
    private func publicAddressProblem(_ choice: UnderlayChoice) -> Problem? {
        for address in AddressFamily.allCases.compactMap({ underlay.publicAddress($0) }) {
            guard let network = choice.exclusions.network(with: address) else { continue }
            return Problem(
                .cutOff,
                "the public address \(address) lies inside the tunnel's network \(network): no node can send to it",
                remedy:
                    "give \(address.v4 == nil ? "--public-ipv6" : "--public-ip") an address outside of \(network)"
            )
        }
        return nil
    }

    private mutating func carrierProblem(_ choice: UnderlayChoice, _ now: ContinuousClock.Instant) -> Problem?
    {
        guard let problem = choice.carrierProblem(of: underlay) else {
            withoutCarrierSince = nil
            return nil
        }
        let since = withoutCarrierSince ?? now
        withoutCarrierSince = since
        if now - since >= silence { return problem }
        nextLook = since + silence
        return nil
    }

    private var substitutionProblem: Problem? {
        guard underlay.mainAddress != first.mainAddress, underlay.interfaceName != first.interfaceName else {
            return nil
        }
        return Problem(
            .degraded,
            """
            the underlay is \(underlay.interfaceName) (\(underlay.mainAddress)), since \(first.interfaceName) \
            (\(first.mainAddress)) went away; the other nodes were told
            """,
            remedy: "bring \(first.interfaceName) back and restart twilld, or name the interface with --iface"
        )
    }
}
