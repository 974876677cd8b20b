import Addresses

/// An address on an interface (rtnetlink(7), `RTM_NEWADDR`).
public struct InterfaceAddress: Sendable, Hashable {
    /// The interface that holds it.
    public var interfaceIndex: Int32
    /// The address itself, host bits and all.
    public var address: IPAddress
    /// The length in bits of the on-link prefix.
    public var prefixLength: Int
    /// How far the address is valid.
    public var scope: Scope
    /// How it came about and whether it may still be used.
    public var flags: AddressFlags
    /// Who made it: a number as routes have (`Route.origin`); 0 where nobody said, or the kernel keeps none (before
    /// 5.18).
    public var origin: UInt8

    /// Makes an address from its parts.
    public init(
        interfaceIndex: Int32, address: IPAddress, prefixLength: Int, scope: Scope = .global,
        flags: AddressFlags = .permanent, origin: UInt8 = 0
    ) {
        self.interfaceIndex = interfaceIndex
        self.address = address
        self.prefixLength = prefixLength
        self.scope = scope
        self.flags = flags
        self.origin = origin
    }
}

/// How far an address or a route is valid: `rt_scope_t` of linux/rtnetlink.h. Larger is nearer.
public struct Scope: RawRepresentable, Sendable, Hashable {
    /// The kernel's number.
    public var rawValue: UInt8
    /// Makes a scope from the kernel's number.
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// Anywhere.
    public static let global = Scope(rawValue: 0)
    /// On the link.
    public static let link = Scope(rawValue: 253)
    /// On this machine.
    public static let host = Scope(rawValue: 254)
}

/// Address flags, as `IFA_F_*` in linux/if_addr.h has them.
public struct AddressFlags: OptionSet, Sendable, Hashable {
    /// The kernel's bits.
    public var rawValue: UInt32
    /// Makes flags from the kernel's bits.
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// `IFA_F_TEMPORARY`: drawn by lot for a while, for connections that are not to tell who made them (RFC 8981).
    public static let temporary = AddressFlags(rawValue: 0x01)
    /// `IFA_F_NODAD`: usable at once, without asking the link whether somebody has it (IPv6).
    public static let withoutDuplicateDetection = AddressFlags(rawValue: 0x02)
    /// `IFA_F_DADFAILED`: another machine has it (IPv6).
    public static let duplicate = AddressFlags(rawValue: 0x08)
    /// `IFA_F_DEPRECATED`: its preferred lifetime is over; not for new connections.
    public static let deprecated = AddressFlags(rawValue: 0x20)
    /// `IFA_F_TENTATIVE`: duplicate detection still runs (IPv6).
    public static let tentative = AddressFlags(rawValue: 0x40)
    /// `IFA_F_PERMANENT`: has no lifetime; an address without it came from DHCP or a router.
    public static let permanent = AddressFlags(rawValue: 0x80)
}
