import Addresses
import Netlink

/// What the operator says of the underlay: flannel's `iface`, `iface-regex`, `iface-can-reach`, `public-ip`.
public struct UnderlayOptions: Sendable, Hashable {
    /// `--iface`: names or addresses, the first that exists wins.
    public var interfaces: [String]
    /// `--iface-regex`: patterns for addresses, then for names; the first that matches wins.
    public var interfacePatterns: [String]
    /// `--iface-can-reach`: the interface and source address on the route to this address.
    public var reachableAddress: IPv4Address?
    /// `--public-ip`: the address that others are told.
    public var publicAddress: IPv4Address?

    /// Makes options.
    public init(
        interfaces: [String] = [], interfacePatterns: [String] = [], reachableAddress: IPv4Address? = nil,
        publicAddress: IPv4Address? = nil
    ) {
        self.interfaces = interfaces
        self.interfacePatterns = interfacePatterns
        self.reachableAddress = reachableAddress
        self.publicAddress = publicAddress
    }
}

/// The interface and address that tunnel datagrams leave by.
public struct Underlay: Sendable, Hashable {
    /// The interface's number.
    public var interfaceIndex: Int32
    /// The interface's name.
    public var interfaceName: String
    /// The interface's address: what the UDP socket binds.
    public var address: IPv4Address
    /// The address that the lease tells others: `--public-ip`, else `address`.
    public var publicAddress: IPv4Address
    /// The largest outer packet in bytes: the interface's MTU, or that of the default route through it where
    /// the
    /// route has a smaller one.
    public var mtu: Int

    /// Makes an underlay.
    public init(
        interfaceIndex: Int32, interfaceName: String, address: IPv4Address, publicAddress: IPv4Address,
        mtu: Int
    ) {
        self.interfaceIndex = interfaceIndex
        self.interfaceName = interfaceName
        self.address = address
        self.publicAddress = publicAddress
        self.mtu = mtu
    }
}

/// No underlay could be chosen; the description says why and which interfaces there are.
public struct UnderlayError: Error, Hashable, CustomStringConvertible {
    /// The message to the operator.
    public let description: String
    /// Whether it may come right by itself: an interface, address or route that is not there yet (DHCP is
    /// late, say).
    /// Otherwise the flags themselves are wrong, and waiting is in vain.
    public let isTransient: Bool

    /// Makes an error.
    public init(description: String, isTransient: Bool) {
        self.description = description
        self.isTransient = isTransient
    }
}

extension Underlay {
    /// Chooses as flanneld does. In this order, and the first that gives an interface with an address wins:
    /// each
    /// `interfaces`, each of `interfacePatterns`, `reachableAddress`. With none of the three given: the
    /// interface
    /// that holds `publicAddress`, else the default route's.
    ///
    /// `routeToReachable` is the kernel's answer for `reachableAddress`, nil where there is none.
    public init(
        choosing options: UnderlayOptions, in state: NetworkState, routeToReachable: Route?
    ) throws(UnderlayError) {
        let choice = UnderlayChoice(options: options, state: state, routeToReachable: routeToReachable)
        let (link, address) = try choice.interfaceAndAddress()
        let routeMTU = state.defaultRoute { $0.interfaceIndex == link.index }?.mtu ?? link.mtu
        self.init(
            interfaceIndex: link.index, interfaceName: link.name, address: address,
            publicAddress: options.publicAddress ?? address, mtu: min(link.mtu, routeMTU))
    }
}

/// One choice: the options against one state of the kernel.
private struct UnderlayChoice {
    typealias Candidate = (link: Link, address: IPv4Address)

    let options: UnderlayOptions
    let state: NetworkState
    let routeToReachable: Route?

    func interfaceAndAddress() throws(UnderlayError) -> Candidate {
        let attempts = attempts()
        if attempts.isEmpty { return try byPublicAddressOrDefaultRoute() }
        var reasons: [String] = []
        var isTransient = false
        for (option, choose) in attempts {
            switch choose() {
            case .success(let candidate): return candidate
            case .failure(let error):
                reasons.append("\(option): \(error)")
                if error.isTransient { isTransient = true }
            }
        }
        throw UnderlayError(
            description: "no underlay interface: \(reasons.joined(separator: "; ")); \(choices)",
            isTransient: isTransient)
    }

    /// The options that name an interface, in the order in which they count.
    private func attempts() -> [(option: String, choose: () -> Result<Candidate, UnderlayError>)] {
        var attempts: [(option: String, choose: () -> Result<Candidate, UnderlayError>)] = []
        for name in options.interfaces {
            attempts.append(("--iface=\(name)", { byNameOrAddress(name) }))
        }
        for pattern in options.interfacePatterns {
            attempts.append(("--iface-regex=\(pattern)", { byPattern(pattern) }))
        }
        if let address = options.reachableAddress {
            attempts.append(("--iface-can-reach=\(address)", { byRoute(routeToReachable) }))
        }
        return attempts
    }

    private func byNameOrAddress(_ text: String) -> Result<Candidate, UnderlayError> {
        guard let address = IPv4Address(text) else {
            guard let link = state.link(named: text) else {
                return .failure(UnderlayError(description: "there is no such interface", isTransient: true))
            }
            return firstAddress(of: link)
        }
        guard let link = holder(of: address) else {
            return .failure(
                UnderlayError(description: "no interface holds that address", isTransient: address.isUnicast))
        }
        return .success((link, address))
    }

    private func byPattern(_ pattern: String) -> Result<Candidate, UnderlayError> {
        let regex: Regex<AnyRegexOutput>
        do {
            regex = try Regex(pattern)
        } catch {
            return .failure(
                UnderlayError(description: "not a regular expression: \(error)", isTransient: false))
        }
        for link in state.links {
            let matching = state.usableAddresses(ofLink: link.index)
                .first { $0.description.firstMatch(of: regex) != nil }
            if let matching { return .success((link, matching)) }
        }
        guard let link = state.links.first(where: { $0.name.firstMatch(of: regex) != nil }) else {
            return .failure(
                UnderlayError(description: "matches no address and no interface", isTransient: true))
        }
        return firstAddress(of: link)
    }

    private func byRoute(_ route: Route?) -> Result<Candidate, UnderlayError> {
        guard let route, let index = route.interfaceIndex, let link = state.link(index: index) else {
            return .failure(UnderlayError(description: "there is no route to it", isTransient: true))
        }
        guard let address = route.preferredSource?.v4 else { return firstAddress(of: link) }
        return .success((link, address))
    }

    private func byPublicAddressOrDefaultRoute() throws(UnderlayError) -> Candidate {
        if let address = options.publicAddress, let link = holder(of: address) { return (link, address) }
        guard let index = state.defaultRoute()?.interfaceIndex, let link = state.link(index: index) else {
            throw UnderlayError(
                description:
                    "no underlay interface: there is no default route; name one with --iface; \(choices)",
                isTransient: true)
        }
        do {
            return try firstAddress(of: link).get()
        } catch {
            throw UnderlayError(
                description: "no underlay interface: the default route's, \(link.name): \(error); \(choices)",
                isTransient: error.isTransient)
        }
    }

    private func holder(of address: IPv4Address) -> Link? {
        state.addresses.first { $0.address == .v4(address) }.flatMap { state.link(index: $0.interfaceIndex) }
    }

    private func firstAddress(of link: Link) -> Result<Candidate, UnderlayError> {
        guard let address = state.usableAddresses(ofLink: link.index).first else {
            return .failure(
                UnderlayError(
                    description: "interface \(link.name) has no usable IPv4 address", isTransient: true))
        }
        return .success((link, address))
    }

    /// Which interfaces there are, with their addresses, for the operator to choose from.
    private var choices: String {
        let texts = state.links.map { link in
            let addresses = state.usableAddresses(ofLink: link.index).map(\.description)
            return addresses.isEmpty ? link.name : "\(link.name) (\(addresses.joined(separator: ", ")))"
        }
        return "this machine has: \(texts.joined(separator: ", "))"
    }
}
