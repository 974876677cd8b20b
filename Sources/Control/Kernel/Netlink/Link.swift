public import Addresses

/// A network interface as the kernel reports it (rtnetlink(7), `RTM_NEWLINK`).
public struct Link: Sendable, Hashable {
    /// The kernel's number of the interface: never 0, and never given twice while the machine is up.
    public var index: Int32
    /// The name, at most 15 bytes.
    public var name: String
    /// What state it is in.
    public var flags: LinkFlags
    /// The largest packet in bytes, link-layer header not counted; 0 where the kernel did not say.
    public var mtu: Int
    /// The transmit queue's length in packets.
    public var transmitQueueLength: Int
    /// The number of the bridge or bond that it is a part of; nil for none.
    public var masterIndex: Int32?
    /// Its address on an Ethernet link; nil where it has none of six bytes.
    public var hardwareAddress: HardwareAddress?
    /// What somebody called it beside its name (`ip link set … alias`); nil for nothing.
    public var alias: String?
    /// What it is as a tunnel device of a kind that twill makes; nil where it is none.
    public var kind: LinkKind?
    /// Whether its packets have Ethernet headers (`ARPHRD_ETHER`).
    public var isEthernet: Bool

    /// Makes a link from its parts.
    public init(
        index: Int32, name: String, flags: LinkFlags = [], mtu: Int = 0, transmitQueueLength: Int = 0,
        masterIndex: Int32? = nil, isEthernet: Bool = true
    ) {
        self.index = index
        self.name = name
        self.flags = flags
        self.mtu = mtu
        self.transmitQueueLength = transmitQueueLength
        self.masterIndex = masterIndex
        self.isEthernet = isEthernet
    }

    /// What it is as a VXLAN device; nil where it is none.
    public var vxlan: VXLANAttributes? {
        if case .vxlan(let attributes) = kind { attributes } else { nil }
    }

    /// Whether somebody set the interface up (which says nothing about a carrier).
    public var isUp: Bool { flags.contains(.up) }
}

/// Interface flags, as `net_device_flags` in linux/if.h has them.
public struct LinkFlags: OptionSet, Sendable, Hashable {
    /// The kernel's bits.
    public var rawValue: UInt32
    /// Makes flags from the kernel's bits.
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// `IFF_UP`: set up by somebody.
    public static let up = LinkFlags(rawValue: 1 << 0)
    /// `IFF_LOOPBACK`.
    public static let loopback = LinkFlags(rawValue: 1 << 3)
    /// `IFF_POINTOPOINT`.
    public static let pointToPoint = LinkFlags(rawValue: 1 << 4)
    /// `IFF_RUNNING`: operationally up.
    public static let running = LinkFlags(rawValue: 1 << 6)
    /// `IFF_LOWER_UP`: there is a carrier: a cable, a radio link, the other end of a pair.
    public static let lowerUp = LinkFlags(rawValue: 1 << 16)
}

/// What `RouteSocket.setLink` changes; nil leaves a setting as it is.
public struct LinkChange: Sendable, Hashable {
    /// Set up or down.
    public var isUp: Bool?
    /// The new MTU in bytes.
    public var mtu: Int?
    /// The new transmit queue length in packets.
    public var transmitQueueLength: Int?
    /// Settings of its IPv4 side, with their new values.
    public var settings: [LinkSetting: UInt32]
    /// The new address on an Ethernet link.
    public var hardwareAddress: HardwareAddress?
    /// What it is called beside its name, up to 255 bytes.
    public var alias: String?

    /// Makes a change.
    public init(
        isUp: Bool? = nil, mtu: Int? = nil, transmitQueueLength: Int? = nil,
        settings: [LinkSetting: UInt32] = [:], hardwareAddress: HardwareAddress? = nil, alias: String? = nil
    ) {
        self.hardwareAddress = hardwareAddress
        self.alias = alias
        self.isUp = isUp
        self.mtu = mtu
        self.transmitQueueLength = transmitQueueLength
        self.settings = settings
    }
}

/// A setting of an interface's IPv4 side. The raw values are the kernel's numbers, `IPV4_DEVCONF_*` of linux/ip.h (6.1).
public enum LinkSetting: Int, Sendable, Hashable, CaseIterable {
    /// Whether what comes in by it is forwarded.
    case forwarding = 1
    /// How sources are judged (RFC 3704): 0 not, 1 strict, 2 loose.
    case reversePathFilter = 8
    /// Whether packets are taken in whose source is an address of this machine.
    case acceptLocal = 23

    /// Its file's name below `/proc/sys/net/ipv4/conf/<interface>`.
    public var fileName: String {
        switch self {
        case .forwarding: "forwarding"
        case .reversePathFilter: "rp_filter"
        case .acceptLocal: "accept_local"
        }
    }
}
