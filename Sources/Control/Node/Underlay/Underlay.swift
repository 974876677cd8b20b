import Addresses
import Health
import Netlink
import Reconciler

/// The interface and the addresses that tunnel datagrams leave by: one of each family that the interface has, of one at
/// least.
public struct Underlay: Sendable, Hashable {
    /// The interface's number.
    public var interfaceIndex: Int32
    /// The interface's name.
    public var interfaceName: String
    /// One of the interface's, or of `holderName`: what the UDP socket binds in a network that has IPv4; nil for none.
    public var address: IPv4Address?
    /// The address that others are told: what is said in its place, else `--public-ip`, else `address`.
    public var publicAddress: IPv4Address?
    /// The IPv6 address; nil for none.
    public var ipv6Address: IPv6Address?
    /// The IPv6 address that others are told: what is said in its place, else `--public-ipv6`, else `ipv6Address`.
    public var publicIPv6Address: IPv6Address?
    /// The largest outer packet in bytes: the interface's MTU, or that of the default route through it where the
    /// route has a smaller one.
    public var mtu: Int
    /// The interface that holds the address, where it is not the one that datagrams leave by: often `lo`, on machines
    /// whose address is announced by a routing protocol over several interfaces without one.
    public var holderName: String?

    /// Makes an underlay.
    public init(
        interfaceIndex: Int32, interfaceName: String, address: IPv4Address?, publicAddress: IPv4Address?,
        ipv6Address: IPv6Address? = nil, publicIPv6Address: IPv6Address? = nil, mtu: Int,
        holderName: String? = nil
    ) {
        self.interfaceIndex = interfaceIndex
        self.interfaceName = interfaceName
        self.address = address
        self.publicAddress = publicAddress
        self.ipv6Address = ipv6Address
        self.publicIPv6Address = publicIPv6Address
        self.mtu = mtu
        self.holderName = holderName
    }

    /// This node's address of a family there; nil where it has none.
    public func address(_ family: AddressFamily) -> IPAddress? {
        switch family {
        case .ipv4: address.map { .v4($0) }
        case .ipv6: ipv6Address.map { .v6($0) }
        }
    }

    /// The address of a family that others are told; nil where there is none.
    public func publicAddress(_ family: AddressFamily) -> IPAddress? {
        switch family {
        case .ipv4: publicAddress.map { .v4($0) }
        case .ipv6: publicIPv6Address.map { .v6($0) }
        }
    }

    /// The address that names the node: of IPv4 where it has one.
    public var mainAddress: IPAddress { address(.ipv4) ?? address(.ipv6) ?? .v4(.any) }

    /// The address that names the node to others.
    public var mainPublicAddress: IPAddress { publicAddress(.ipv4) ?? publicAddress(.ipv6) ?? .v4(.any) }

    /// The addresses, with a comma.
    public var addressText: String {
        AddressFamily.allCases.compactMap { address($0) }.map { "\($0)" }.joined(separator: ", ")
    }

    /// The addresses that others are told, with a comma.
    public var publicAddressText: String {
        AddressFamily.allCases.compactMap { publicAddress($0) }.map { "\($0)" }.joined(separator: ", ")
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
    /// Chooses as flanneld does. In this order, and the first that gives an interface with an address wins: each
    /// `interfaces`, each of `interfacePatterns`, `reachableAddress`. With none of the three given: the interface
    /// that holds `publicAddress`, else the default route's. An interface is chosen by its IPv4 address, and where none
    /// fits, by its IPv6 address; what it has of the other family is used too.
    ///
    /// `routeToReachable` is the kernel's answer for `reachableAddress`, nil where there is none.
    ///
    /// - Throws: `UnderlayError` where none fits, or more than one does.
    public init(
        choosing options: UnderlayOptions, excluding exclusions: UnderlayExclusions = UnderlayExclusions(),
        in state: NetworkState, routeToReachable: Route?,
        by families: [AddressFamily] = AddressFamily.allCases
    ) throws(UnderlayError) {
        var choice = UnderlayChoice(
            options: options, exclusions: exclusions, state: state, routeToReachable: routeToReachable)
        var first: UnderlayError?
        for family in families {
            choice.family = family
            do throws(UnderlayError) {
                self = choice.underlay(try choice.candidate(), since: nil)
                return
            } catch {
                first = first ?? error
            }
        }
        throw first ?? UnderlayError(description: "no underlay interface", isTransient: true)
    }
}

/// One look at the underlay: the options against one state of the kernel.
struct UnderlayChoice {
    /// An interface with the address to use. `uplinks`: the interfaces that datagrams leave by, where they are
    /// others.
    typealias Candidate = (link: Link, address: IPAddress, uplinks: [Link])

    let options: UnderlayOptions
    let exclusions: UnderlayExclusions
    let state: NetworkState
    let routeToReachable: Route?
    /// By whose addresses an interface is chosen.
    var family = AddressFamily.ipv4

    /// - Parameter present: what is in use: an address of its other family stays as long as it is there.
    func underlay(_ candidate: Candidate, since present: Underlay?) -> Underlay {
        var uplinks = candidate.uplinks
        if uplinks.isEmpty, candidate.link.flags.contains(.loopback) { uplinks = defaultRouteLinks }
        if uplinks.isEmpty { uplinks = [candidate.link] }
        let link = uplinks.first { $0.index == candidate.link.index } ?? uplinks[0]
        let ipv4 = address(.ipv4, of: candidate, since: present)?.v4
        let ipv6 = address(.ipv6, of: candidate, since: present)?.v6
        return Underlay(
            interfaceIndex: link.index, interfaceName: link.name, address: ipv4,
            publicAddress: ipv4.map { options.stated(.ipv4)?.v4 ?? $0 }, ipv6Address: ipv6,
            publicIPv6Address: ipv6.map { options.stated(.ipv6)?.v6 ?? $0 },
            mtu: uplinks.map(mtu).min() ?? link.mtu,
            holderName: link.index == candidate.link.index ? nil : candidate.link.name)
    }

    /// The address of a family to use of a candidate.
    private func address(
        _ family: AddressFamily, of candidate: Candidate, since present: Underlay?
    ) -> IPAddress? {
        if candidate.address.addressFamily == family { return candidate.address }
        let usable = addresses(of: candidate.link, family)
        // The one that others are told may be another than the first: flannel takes it where the interface has it.
        let known = [present?.address(family), options.publicAddress(family)].compactMap(\.self)
        return known.first(where: usable.contains) ?? usable.first
    }

    private func mtu(of link: Link) -> Int {
        let route = state.defaultRoute(family) { $0.interfaceIndexes.contains(link.index) }
        return min(link.mtu, route?.mtu ?? link.mtu)
    }

    func candidate() throws(UnderlayError) -> Candidate {
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
        guard let address = IPAddress(text), address.addressFamily == family else {
            if text == exclusions.interfaceName {
                return failure("it is the tunnel's own device", isTransient: false)
            }
            guard let link = state.link(named: text) else { return failure("there is no such interface") }
            return firstAddress(of: link)
        }
        if case .v4(let address) = address, !address.isUnicast {
            return failure("it is no address that an interface can have", isTransient: false)
        }
        if let network = exclusions.network(with: address) { return failure(insideText(network)) }
        guard let link = holder(of: address) else { return failure("no interface holds that address") }
        return .success((link, address, []))
    }

    private func byPattern(_ pattern: String) -> Result<Candidate, UnderlayError> {
        let regex: Regex<AnyRegexOutput>
        do {
            regex = try Regex(pattern)
        } catch {
            return failure("not a regular expression: \(error)", isTransient: false)
        }
        for link in candidateLinks {
            let matching = addresses(of: link).first { $0.description.firstMatch(of: regex) != nil }
            if let matching { return .success((link, matching, [])) }
        }
        guard let link = candidateLinks.first(where: { $0.name.firstMatch(of: regex) != nil }) else {
            return failure("matches no address and no interface")
        }
        return firstAddress(of: link)
    }

    private func byRoute(_ route: Route?) -> Result<Candidate, UnderlayError> {
        guard let route, let link = route.interfaceIndex.flatMap({ state.link(index: $0) }) else {
            return failure("there is no route to it")
        }
        if link.name == exclusions.interfaceName { return failure("the route to it leads into the tunnel") }
        guard let address = route.preferredSource, address.addressFamily == family else {
            return firstAddress(of: link)
        }
        if let network = exclusions.network(with: address) {
            return failure("the route to it leaves by \(address) of \(link.name): \(insideText(network))")
        }
        // A route to an address of this machine itself leads to `lo`.
        let holders = state.holders(of: address)
        let holder = holders.first { $0.index == link.index } ?? holders.first ?? link
        return .success((holder, address, link.flags.contains(.loopback) ? [] : [link]))
    }

    private func byPublicAddressOrDefaultRoute() throws(UnderlayError) -> Candidate {
        if let address = options.publicAddress(family), exclusions.network(with: address) == nil,
            let link = holder(of: address)
        {
            return (link, address, [])
        }
        guard let route = usableDefaultRoute, let first = links(of: route).first else {
            throw UnderlayError(
                description:
                    "no underlay interface: there is no default route; name one with --iface; \(choices)",
                isTransient: true)
        }
        let uplinks = links(of: route)
        if let source = route.preferredSource, source.addressFamily == family,
            exclusions.network(with: source) == nil,
            let link = holder(of: source)
        {
            return (link, source, uplinks)
        }
        for link in uplinks {
            if let address = addresses(of: link).first { return (link, address, uplinks) }
        }
        // Where they have none, the kernel takes one of another interface, looking through them in their order
        // (`inet_select_addr`).
        let haveNone = uplinks.allSatisfy { state.usableAddresses(ofLink: $0.index, family).isEmpty }
        for link in candidateLinks where link.isUp && haveNone {
            if let address = addresses(of: link).first(where: { $0.v4?.isLinkLocal != true }) {
                return (link, address, uplinks)
            }
        }
        throw UnderlayError(
            description:
                "no underlay interface: the default route's, \(first.name): \(noAddressText(first)); \(choices)",
            isTransient: true)
    }

    private var usableDefaultRoute: Route? { state.defaultRoute(family) { !links(of: $0).isEmpty } }

    private var defaultRouteLinks: [Link] { usableDefaultRoute.map(links) ?? [] }

    private func links(of route: Route) -> [Link] {
        route.interfaceIndexes.compactMap { index in candidateLinks.first { $0.index == index } }
    }

    private var candidateLinks: [Link] { state.links.filter { $0.name != exclusions.interfaceName } }

    private func holder(of address: IPAddress) -> Link? {
        state.holders(of: address).first { $0.name != exclusions.interfaceName }
    }

    private func addresses(of link: Link, _ family: AddressFamily? = nil) -> [IPAddress] {
        state.usableAddresses(ofLink: link.index, family ?? self.family).filter {
            exclusions.network(with: $0) == nil
        }
    }

    private func firstAddress(of link: Link) -> Result<Candidate, UnderlayError> {
        guard let address = addresses(of: link).first else { return failure(noAddressText(link)) }
        return .success((link, address, []))
    }

    private func noAddressText(_ link: Link) -> String {
        let inside = state.usableAddresses(ofLink: link.index, family).compactMap { address in
            exclusions.network(with: address).map { "\(address), which \(insideText($0))" }
        }
        let text = "interface \(link.name) has no usable \(family) address"
        return inside.isEmpty ? text : "\(text) but \(inside.joined(separator: "; "))"
    }

    private func insideText(_ network: IPPrefix) -> String { "lies inside the tunnel's network \(network)" }

    private func failure(_ text: String, isTransient: Bool = true) -> Result<Candidate, UnderlayError> {
        .failure(UnderlayError(description: text, isTransient: isTransient))
    }

    /// Which interfaces there are, with their addresses, for the operator to choose from.
    private var choices: String {
        let texts = candidateLinks.map { link in
            let addresses = addresses(of: link).map(\.description)
            return addresses.isEmpty ? link.name : "\(link.name) (\(addresses.joined(separator: ", ")))"
        }
        return "this machine has: \(texts.joined(separator: ", "))"
    }
}

extension UnderlayChoice {
    /// How an underlay in use stands.
    enum Standing: Hashable {
        /// It still qualifies; name, number and MTU as they are now.
        case good(Underlay)
        /// It is away: the text says what is missing. `cutsOff`: datagrams cannot leave by its address.
        case away(String, cutsOff: Bool)
        /// It can never be right: the text says why.
        case excluded(String)
    }

    /// Says how an underlay in use stands, without regard to what fits better now.
    func standing(of present: Underlay) -> Standing {
        guard let address = present.address(family) else {
            return .excluded(
                """
                the network is of \(family), and \(present.holderName ?? present.interfaceName), the underlay's interface, \
                has no \(family) address
                """)
        }
        if let network = exclusions.network(with: address) {
            return .excluded(
                """
                the underlay's address \(address) of \(present.holderName ?? present.interfaceName) \
                \(insideText(network)), so that datagrams to it would go into the tunnel
                """)
        }
        let holders = state.holders(of: address).filter { $0.name != exclusions.interfaceName }
        guard !holders.isEmpty else { return .away(missingText(present, address), cutsOff: true) }
        guard let holder = best(of: holders.filter(\.isUp), for: present) else {
            let name = holders[0].name
            return .away(
                "interface \(name), which holds the underlay's address \(address), is down",
                cutsOff: true)
        }
        guard admits(holder, address) || present.holderName != nil && admits(present) else {
            return .away(
                """
                the underlay's address \(address) is on interface \(holder.name) now, and was on \
                \(present.interfaceName): \(holder.name) is not what --iface or --iface-regex name
                """, cutsOff: false)
        }
        return .good(current(present, address, on: holder))
    }

    /// The same underlay with its interface as it is now: it may have another number, name or MTU, or hand its
    /// address to a bridge or bond that it became part of.
    private func current(_ present: Underlay, _ address: IPAddress, on holder: Link) -> Underlay {
        var uplinks: [Link] = []
        if present.holderName != nil {
            uplinks = defaultRouteLinks.filter(\.isUp)
            if uplinks.isEmpty, let link = best(of: candidateLinks, for: present, orNone: true) {
                uplinks = [link]
            }
        } else if defaultRouteLinks.contains(where: { $0.index == holder.index }) {
            uplinks = defaultRouteLinks
        }
        return underlay((holder, address, uplinks), since: present)
    }

    /// Of several interfaces, the one that the underlay has: by number, else by name, else the first.
    private func best(of links: [Link], for present: Underlay, orNone: Bool = false) -> Link? {
        links.first { $0.index == present.interfaceIndex && $0.name == present.interfaceName }
            ?? links.first { $0.index == present.interfaceIndex }
            ?? links.first { $0.name == present.interfaceName } ?? (orNone ? nil : links.first)
    }

    private func missingText(_ present: Underlay, _ address: IPAddress) -> String {
        let name = present.holderName ?? present.interfaceName
        guard let link = state.link(named: name) ?? state.link(index: present.interfaceIndex) else {
            return "interface \(name), which held the underlay's address \(address), is gone"
        }
        return "interface \(link.name) has lost the underlay's address \(address)"
    }

    private func admits(_ underlay: Underlay) -> Bool {
        guard let address = underlay.address(family) else { return false }
        return admits(name: underlay.interfaceName, address)
            || underlay.holderName.map { admits(name: $0, address) } == true
    }

    private func admits(_ link: Link, _ address: IPAddress) -> Bool { admits(name: link.name, address) }

    /// Whether the options name that interface or address. Those that name none (`--iface-can-reach`, the default
    /// route) say where to begin, not where to go later.
    private func admits(name: String, _ address: IPAddress) -> Bool {
        // The interface may have been named by its address of the other family.
        let others = options.interfaces.compactMap { IPAddress($0) }.filter { $0.addressFamily != family }
        let named = others.contains { other in state.holders(of: other).contains { $0.name == name } }
        if named { return true }
        if options.reachableAddress != nil { return true }
        if options.interfaces.isEmpty && options.interfacePatterns.isEmpty { return true }
        if options.interfaces.contains(name) || options.interfaces.contains("\(address)") { return true }
        return options.interfacePatterns.contains { pattern in
            guard let regex = try? Regex(pattern) else { return false }
            return name.firstMatch(of: regex) != nil || "\(address)".firstMatch(of: regex) != nil
        }
    }

    /// Why datagrams may not get out though the underlay qualifies; nil where nothing is known to be wrong.
    func carrierProblem(of underlay: Underlay) -> Problem? {
        let link = state.link(index: underlay.interfaceIndex)
        guard let link, !link.flags.contains(.lowerUp) else { return nil }
        return Problem(
            .cutOff, "the underlay's interface \(link.name) has no carrier",
            remedy: "look at its cable, switch port, or (of a virtual machine) the other end")
    }
}
