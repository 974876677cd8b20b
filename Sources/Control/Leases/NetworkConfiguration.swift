public import Addresses
package import Backends
import Health
import JSON

/// flannel's network configuration: which prefix the overlay has and how it is cut into node subnets.
public struct NetworkConfiguration: Sendable, Hashable {
    /// The IPv4 side.
    public struct IPv4Allocation: Sendable, Hashable {
        /// The overlay's prefix.
        public var network: IPv4Prefix
        /// The length of a node's prefix, in bits.
        public var subnetLength: Int
        /// The first node subnet that is handed out.
        public var subnetMinimum: IPv4Address
        /// The last node subnet that is handed out.
        public var subnetMaximum: IPv4Address

        /// Whether a node's prefix can have come from this.
        func admits(_ prefix: IPv4Prefix) -> Bool {
            prefix.length == subnetLength && subnetMinimum <= prefix.address
                && prefix.address <= subnetMaximum
        }
    }

    /// The IPv6 side.
    public struct IPv6Allocation: Sendable, Hashable {
        /// The overlay's prefix.
        public var network: IPv6Prefix
        /// The length of a node's prefix, in bits.
        public var subnetLength: Int
        /// The first node subnet that is handed out.
        public var subnetMinimum: IPv6Address
        /// The last node subnet that is handed out.
        public var subnetMaximum: IPv6Address

        /// Whether a node's prefix can have come from this.
        func admits(_ prefix: IPv6Prefix) -> Bool {
            prefix.length == subnetLength && subnetMinimum <= prefix.address
                && prefix.address <= subnetMaximum
        }
    }

    /// The IPv4 side, unless `EnableIPv4` is false.
    public private(set) var ipv4: IPv4Allocation?
    /// The IPv6 side, where `EnableIPv6` is true. One of the two is there.
    public private(set) var ipv6: IPv6Allocation?
    /// Whether masquerade and forward rules go through nftables.
    public var enableNFTables: Bool
    /// How packets are carried.
    package var backend: any Backend { configuredBackend.value }
    private var configuredBackend: ConfiguredBackend

    /// Parses flannel's JSON by flannel's rules.
    ///
    /// - Parameters:
    ///   - backends: those that this daemon has.
    ///   - assignsSubnets: whether nodes choose their subnets by this configuration. Where somebody else assigns them
    ///     (Kubernetes), the keys that say which ones mean nothing and are not looked at.
    /// - Throws: which key does not hold, its value and the rule.
    package init(
        parsing json: String, backends: BackendRegistry = .all, assignsSubnets: Bool = true
    ) throws(NetworkConfigurationError) {
        let root: JSONValue
        do throws(JSONError) { root = try JSONValue(reading: json) } catch {
            throw NetworkConfigurationError(
                "the network configuration is no JSON: \(error); it begins with \"\(json.prefix(40))\"")
        }
        guard case .object = root else {
            throw NetworkConfigurationError("the network configuration is \(root): an object is needed")
        }
        let fields = Fields(object: root, hasAllocation: assignsSubnets)
        enableNFTables = try fields.bool(.enableNFTables) ?? false
        ipv4 = try fields.bool(.enableIPv4) ?? true ? try fields.ipv4Allocation() : nil
        ipv6 = try fields.bool(.enableIPv6) ?? false ? try fields.ipv6Allocation() : nil
        guard ipv4 != nil || ipv6 != nil else {
            throw NetworkConfigurationError(
                key: .enableIPv4, .bool(false), rule: "EnableIPv6 must be true then, or there is no network")
        }
        do throws(BackendError) {
            configuredBackend = ConfiguredBackend(try backends.backend(reading: fields[.backend]))
        } catch {
            throw NetworkConfigurationError(error.description)
        }
        if ipv6 != nil, !type(of: backend).carriesIPv6 {
            throw NetworkConfigurationError(
                key: .enableIPv6, .bool(true),
                rule: "twill's \(type(of: backend).typeName) carries IPv4 alone; "
                    + (ipv4 == nil ? "" : "leave it out, or ")
                    + "set Backend.Type to a backend with IPv6, such as vxlan")
        }
    }

    /// The overlay's prefixes, IPv4 first.
    public var networks: [IPPrefix] {
        [ipv4.map { .v4($0.network) }, ipv6.map { .v6($0.network) }].compactMap(\.self)
    }

    /// The overlay's prefix of one family; nil where it has none.
    public func network(_ family: AddressFamily) -> IPPrefix? {
        networks.first { $0.addressFamily == family }
    }

    /// Whether the overlay has an address.
    public func contains(_ address: IPAddress) -> Bool { networks.contains { $0.contains(address) } }

    /// `10.66.0.0/16`, or both prefixes with a comma.
    public var networkText: String { networks.map(\.description).joined(separator: ",") }

    /// What is said of each family's side, with a comma between them.
    func limits(_ ipv4Text: (IPv4Allocation) -> String, _ ipv6Text: (IPv6Allocation) -> String) -> String {
        [ipv4.map(ipv4Text), ipv6.map(ipv6Text)].compactMap(\.self).joined(separator: ",")
    }

    /// Of which family the address is that names a node, and that the others send to: IPv4 where the network has it.
    public var underlayFamily: AddressFamily { ipv4 == nil ? .ipv6 : .ipv4 }

    /// Whether a lease of `subnet` can have come from this configuration.
    public func admits(_ subnet: LeaseSubnet) -> Bool {
        func fits<Allocation, Prefix>(
            _ allocation: Allocation?, _ prefix: Prefix?, _ admits: (Allocation, Prefix) -> Bool
        ) -> Bool {
            switch (allocation, prefix) {
            case (nil, nil): true
            case (let allocation?, let prefix?): admits(allocation, prefix)
            default: false
            }
        }
        return fits(ipv4, subnet.ipv4) { $0.admits($1) } && fits(ipv6, subnet.ipv6) { $0.admits($1) }
    }
}

/// A network configuration that does not hold: which key, which value, which rule.
public struct NetworkConfigurationError: Error, Sendable, Hashable, CustomStringConvertible {
    /// One sentence for an operator.
    public let description: String

    // The texts come from a store: they are made printable here, on their way to terminals and logs.
    init(_ description: String) { self.description = description.printable }

    init(key: NetworkConfiguration.Key, _ value: JSONValue, rule: String) {
        self.init("\(key.rawValue) is \(value): \(rule)")
    }
}

extension NetworkConfiguration {
    /// flannel's names of the keys that mean something here; nothing else is read (`Fields`). A test holds each to an
    /// effect.
    enum Key: String, CaseIterable {
        case enableIPv4 = "EnableIPv4"
        case enableIPv6 = "EnableIPv6"
        case enableNFTables = "EnableNFTables"
        case network = "Network"
        case subnetLength = "SubnetLen"
        case subnetMinimum = "SubnetMin"
        case subnetMaximum = "SubnetMax"
        case ipv6Network = "IPv6Network"
        case ipv6SubnetLength = "IPv6SubnetLen"
        case ipv6SubnetMinimum = "IPv6SubnetMin"
        case ipv6SubnetMaximum = "IPv6SubnetMax"
        case backend = "Backend"
    }

    /// What is odd in a configuration that somebody is about to write, though a daemon would take it.
    ///
    /// - Returns: unknown keys by name and place, one sentence each.
    /// - Throws: `NetworkConfigurationError` where a key stands twice: which one counts is not what its writer sees.
    public static func remarks(on json: String) throws(NetworkConfigurationError) -> [String] {
        let root: JSONValue
        do throws(JSONError) { root = try JSONValue(reading: json) } catch {
            throw NetworkConfigurationError("the network configuration is no JSON: \(error)")
        }
        func place(_ offset: Int) -> String { "\(JSONError.Place(offset: offset, in: json.utf8))" }
        if let duplicate = root.duplicates().first {
            throw NetworkConfigurationError(
                "the key \"\(duplicate.path)\" stands twice, the second time at \(place(duplicate.offset)): keep one"
            )
        }
        var remarks: [String] = []
        func note(_ object: JSONValue?, known: Set<String>, path: String) {
            guard case .object(let members)? = object else { return }
            for member in members where !known.contains(member.key.lowercased()) {
                remarks.append(
                    "unknown key \"\(path)\(member.key)\" at \(place(member.offset)): no daemon of this network uses it"
                        .printable)
            }
        }
        note(root, known: Set(Key.allCases.map { $0.rawValue.lowercased() }), path: "")
        note(root["Backend"], known: BackendRegistry.all.keys(of: root["Backend"]), path: "Backend.")
        return remarks
    }

    /// Why a node that announces this cannot be of the network; nil where it can.
    package func refusal(of announcement: NodeAnnouncement) -> NetworkConfigurationError? {
        guard announcement.address(underlayFamily) != nil else {
            return NetworkConfigurationError(
                "the network is of \(underlayFamily), and this node has no \(underlayFamily) address that others could send to"
            )
        }
        return refusal(underlay: announcement.addresses)
    }

    /// Why a node with these addresses cannot be of the network; nil where it can.
    package func refusal(underlay addresses: [IPAddress]) -> NetworkConfigurationError? {
        for network in networks {
            guard let address = addresses.first(where: network.contains) else { continue }
            return NetworkConfigurationError(
                key: network.addressFamily == .ipv4 ? .network : .ipv6Network, .string("\(network)"),
                rule:
                    "it holds \(address), this node's own address on the underlay: the tunnel's packets would go through the tunnel"
            )
        }
        return nil
    }
}

/// The configuration's members, each checked by its rule.
private struct Fields {
    private let object: JSONValue
    /// Whether the keys that say how the network is cut into subnets are looked at.
    private let hasAllocation: Bool

    init(object: JSONValue, hasAllocation: Bool) {
        self.object = object
        self.hasAllocation = hasAllocation
    }

    private static let allocation: [NetworkConfiguration.Key] = [
        .subnetLength, .subnetMinimum, .subnetMaximum, .ipv6SubnetLength, .ipv6SubnetMinimum,
        .ipv6SubnetMaximum,
    ]

    subscript(key: NetworkConfiguration.Key) -> JSONValue? {
        hasAllocation || !Self.allocation.contains(key) ? object[key.rawValue] : nil
    }

    // What a kernel does not route to another machine (RFC 6890): a route for it through the tunnel would cut the
    // node off from itself, or from its link. 240.0.0.0/4 is routed by Linux, and is used for pods.
    private static let reserved: [(IPv4Prefix, String)] = [
        (IPv4Prefix(IPv4Address(0, 0, 0, 0), length: 8), "which names this host alone"),
        (IPv4Prefix(IPv4Address(127, 0, 0, 0), length: 8), "which is the loopback"),
        (IPv4Prefix(IPv4Address(169, 254, 0, 0), length: 16), "which is link-local"),
        (IPv4Prefix(IPv4Address(224, 0, 0, 0), length: 4), "which is multicast"),
        (IPv4Prefix(IPv4Address(255, 255, 255, 255), length: 32), "which is broadcast"),
    ]

    func bool(_ key: NetworkConfiguration.Key) throws(NetworkConfigurationError) -> Bool? {
        guard let value = self[key] else { return nil }
        guard case .bool(let flag) = value else {
            throw NetworkConfigurationError(key: key, value, rule: "true or false is needed")
        }
        return flag
    }

    func integer(_ key: NetworkConfiguration.Key) throws(NetworkConfigurationError) -> Int? {
        guard let value = self[key] else { return nil }
        guard case .integer(let number) = value else {
            throw NetworkConfigurationError(key: key, value, rule: "a whole number is needed")
        }
        return number
    }

    func network() throws(NetworkConfigurationError) -> IPv4Prefix {
        guard let value = self[.network] else {
            throw NetworkConfigurationError("Network is missing: the overlay's prefix, such as 10.66.0.0/16")
        }
        guard let network = value.text.flatMap({ IPv4Prefix($0) }) else {
            throw NetworkConfigurationError(
                key: .network, value, rule: "an IPv4 prefix is needed, such as 10.66.0.0/16")
        }
        guard network.length <= 28 else {
            throw NetworkConfigurationError(
                key: .network, value, rule: "it must be /28 or wider, to hold node subnets")
        }
        // A default route over the overlay would take the underlay's own packets with it.
        guard network.length > 0 else {
            throw NetworkConfigurationError(key: .network, value, rule: "it cannot be every address")
        }
        for (reserved, meaning) in Self.reserved where network.overlaps(reserved) {
            throw NetworkConfigurationError(
                key: .network, value, rule: "it must have no address of \(reserved), \(meaning)")
        }
        return network
    }

    func ipv4Allocation() throws(NetworkConfigurationError) -> NetworkConfiguration.IPv4Allocation {
        let network = try network()
        let length = try subnetLength(
            .subnetLength, network: "\(network)", networkLength: network.length, usual: 24, limit: 30)
        let second = IPv4Address(bits: network.address.bits &+ UInt32(1) << (32 &- length))
        let last = IPv4Address(bits: network.last.bits & IPv4Prefix.mask(length: length))
        let allocation = NetworkConfiguration.IPv4Allocation(
            network: network, subnetLength: length,
            subnetMinimum: try subnet(.subnetMinimum, in: network, length: length) ?? second,
            subnetMaximum: try subnet(.subnetMaximum, in: network, length: length) ?? last)
        guard allocation.subnetMinimum <= allocation.subnetMaximum else {
            throw NetworkConfigurationError(
                key: .subnetMinimum, .string("\(allocation.subnetMinimum)"),
                rule: "it is above SubnetMax, \(allocation.subnetMaximum)")
        }
        return allocation
    }

    func subnetLength(
        _ key: NetworkConfiguration.Key, network: String, networkLength: Int, usual: Int, limit: Int
    ) throws(NetworkConfigurationError) -> Int {
        guard let length = try integer(key), length != 0 else {
            return networkLength <= usual &- 2 ? usual : networkLength &+ 2
        }
        guard length <= limit else {
            throw NetworkConfigurationError(key: key, .integer(length), rule: "it must be \(limit) or less")
        }
        guard length >= networkLength &+ 2 else {
            throw NetworkConfigurationError(
                key: key, .integer(length),
                rule: "it must be \(networkLength &+ 2) or more, so that \(network) holds four node subnets")
        }
        return length
    }

    func subnet(
        _ key: NetworkConfiguration.Key, in network: IPv4Prefix, length: Int
    ) throws(NetworkConfigurationError) -> IPv4Address? {
        guard let value = self[key], value != .string("") else { return nil }
        guard let address = value.text.flatMap({ IPv4Address($0) }) else {
            throw NetworkConfigurationError(key: key, value, rule: "an IPv4 address is needed")
        }
        guard network.contains(address) else {
            throw NetworkConfigurationError(key: key, value, rule: "it must lie in Network, \(network)")
        }
        guard IPv4Prefix(address, length: length).address == address else {
            throw NetworkConfigurationError(
                key: key, value, rule: "it must be the first address of a /\(length)")
        }
        return address
    }

    func ipv6Allocation() throws(NetworkConfigurationError) -> NetworkConfiguration.IPv6Allocation {
        guard let value = self[.ipv6Network] else {
            throw NetworkConfigurationError("IPv6Network is missing, and EnableIPv6 is true")
        }
        guard let network = value.text.flatMap({ IPv6Prefix($0) }) else {
            throw NetworkConfigurationError(
                key: .ipv6Network, value, rule: "an IPv6 prefix is needed, such as fd00:66::/48")
        }
        guard network.length <= 124, network.length > 0 else {
            throw NetworkConfigurationError(
                key: .ipv6Network, value, rule: "it must be /124 or wider, to hold node subnets")
        }
        guard !network.address.isMulticast, !network.address.isLinkLocal, network.address.high >> 61 != 0
        else {
            throw NetworkConfigurationError(
                key: .ipv6Network, value,
                rule: "global or unique local addresses are needed, such as fd00:66::/48")
        }
        let length = try subnetLength(
            .ipv6SubnetLength, network: "\(network)", networkLength: network.length, usual: 64, limit: 126)
        let all = network.subnets(length: length)
        let allocation = NetworkConfiguration.IPv6Allocation(
            network: network, subnetLength: length,
            subnetMinimum: try ipv6Subnet(.ipv6SubnetMinimum, in: network, length: length) ?? all.second,
            subnetMaximum: try ipv6Subnet(.ipv6SubnetMaximum, in: network, length: length) ?? all.last)
        guard allocation.subnetMinimum <= allocation.subnetMaximum else {
            throw NetworkConfigurationError(
                key: .ipv6SubnetMinimum, .string("\(allocation.subnetMinimum)"),
                rule: "it is above IPv6SubnetMax, \(allocation.subnetMaximum)")
        }
        return allocation
    }

    func ipv6Subnet(
        _ key: NetworkConfiguration.Key, in network: IPv6Prefix, length: Int
    ) throws(NetworkConfigurationError) -> IPv6Address? {
        guard let value = self[key], value != .string("") else { return nil }
        guard let address = value.text.flatMap({ IPv6Address($0) }) else {
            throw NetworkConfigurationError(key: key, value, rule: "an IPv6 address is needed")
        }
        guard network.contains(address) else {
            throw NetworkConfigurationError(key: key, value, rule: "it must lie in IPv6Network, \(network)")
        }
        guard IPv6Prefix(address, length: length).address == address else {
            throw NetworkConfigurationError(
                key: key, value, rule: "it must be the first address of a /\(length)")
        }
        return address
    }
}

extension IPv6Prefix {
    /// The first address after the prefix; nil after the last one of all.
    var next: IPv6Address? {
        let step: (high: UInt64, low: UInt64) =
            length == 0
            ? (0, 0) : length <= 64 ? (1 << (64 &- length), 0) : (0, 1 << (128 &- length))
        let low = address.low.addingReportingOverflow(step.low)
        let high = address.high.addingReportingOverflow(step.high &+ (low.overflow ? 1 : 0))
        return high.overflow || length == 0
            ? nil : IPv6Address(high: high.partialValue, low: low.partialValue)
    }

    /// The first addresses of the second and of the last of the prefixes of `length` bits within this one.
    func subnets(length: Int) -> (second: IPv6Address, last: IPv6Address) {
        let outer = IPv6Prefix.mask(length: self.length)
        let inner = IPv6Prefix.mask(length: length)
        let last = IPv6Address(
            high: address.high | (~outer.high & inner.high), low: address.low | (~outer.low & inner.low))
        return (IPv6Prefix(address, length: length).next ?? last, last)
    }
}
