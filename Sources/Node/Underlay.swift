import Addresses
import Netlink

/// What the operator says of the underlay: flannel's `iface`, `iface-regex`, `iface-can-reach`, `public-ip`.
public struct UnderlayOptions: Sendable, Hashable {
    /// `--iface`: names or addresses, the first that exists wins.
    public var interfaces: [String]
    /// `--iface-regex`: patterns for addresses, then for names.
    public var interfacePatterns: [String]
    /// `--iface-can-reach`: the interface on the route to this address.
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
    /// The largest outer packet in bytes: the interface's MTU, or its default route's where that is smaller.
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
public struct UnderlayError: Error, CustomStringConvertible {
    /// The message to the operator.
    public let description: String
}
