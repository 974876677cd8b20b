import Addresses

/// What the operator says of the underlay: flannel's `iface`, `iface-regex`, `iface-can-reach`, `public-ip`,
/// `public-ipv6`.
public struct UnderlayOptions: Sendable, Hashable {
    /// `--iface`: names or addresses, the first that exists wins.
    public var interfaces: [String]
    /// `--iface-regex`: patterns for addresses, then for names; the first that matches wins.
    public var interfacePatterns: [String]
    /// `--iface-can-reach`: the interface and source address on the route to this address.
    public var reachableAddress: IPAddress?
    /// `--public-ip`: the address that others are told; where nothing else names an interface, the one that holds it.
    public var publicAddress: IPv4Address?
    /// `--public-ipv6`: the same for IPv6.
    public var publicIPv6Address: IPv6Address?
    /// What others are told in the place of any address of this machine: Kubernetes' `public-ip-overwrite`.
    public var announcedAddress: IPv4Address?
    /// The same for IPv6: `public-ipv6-overwrite`.
    public var announcedIPv6Address: IPv6Address?

    /// Makes options.
    public init(
        interfaces: [String] = [], interfacePatterns: [String] = [], reachableAddress: IPAddress? = nil,
        publicAddress: IPv4Address? = nil, publicIPv6Address: IPv6Address? = nil,
        announcedAddress: IPv4Address? = nil, announcedIPv6Address: IPv6Address? = nil
    ) {
        self.interfaces = interfaces
        self.interfacePatterns = interfacePatterns
        self.reachableAddress = reachableAddress
        self.publicAddress = publicAddress
        self.publicIPv6Address = publicIPv6Address
        self.announcedAddress = announcedAddress
        self.announcedIPv6Address = announcedIPv6Address
    }

    /// The address of a family that others are told, whatever addresses the interface has.
    func stated(_ family: AddressFamily) -> IPAddress? {
        switch family {
        case .ipv4: (announcedAddress ?? publicAddress).map { .v4($0) }
        case .ipv6: (announcedIPv6Address ?? publicIPv6Address).map { .v6($0) }
        }
    }

    /// The same, as far as an interface is found by it.
    func publicAddress(_ family: AddressFamily) -> IPAddress? {
        switch family {
        case .ipv4: publicAddress.map { .v4($0) }
        case .ipv6: publicIPv6Address.map { .v6($0) }
        }
    }
}

/// What is never the underlay, whatever the options say: the tunnel's own device, and addresses inside the overlay,
/// which bridges and devices of this node or of a former start of it hold. Datagrams that left by them would go in
/// circles.
public struct UnderlayExclusions: Sendable, Hashable {
    /// The tunnel device's name; nil for none.
    public var interfaceName: String?
    /// The overlay, and those that were it before.
    public var networks: [IPPrefix]

    /// Makes exclusions.
    public init(interfaceName: String? = nil, networks: [IPPrefix] = []) {
        self.interfaceName = interfaceName
        self.networks = networks
    }

    /// The overlay in which an address lies; nil where it lies in none.
    func network(with address: IPAddress) -> IPPrefix? { networks.first { $0.contains(address) } }
}
