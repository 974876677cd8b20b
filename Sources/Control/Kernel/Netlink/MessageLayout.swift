import Addresses
import CLinux
import Glibc

/// Sizes in bytes of linux/netlink.h and linux/rtnetlink.h.
enum MessageLayout {
    /// `NLMSG_ALIGNTO`, `NLA_ALIGNTO`: messages and attributes start on multiples of it.
    static let alignment = 4
    /// `struct nlmsghdr`: length 4, type 2, flags 2, sequence 4, port 4.
    static let headerSize = 16
    /// `struct nlattr`: length 2, type 2.
    static let attributeHeaderSize = 4
    /// Leaves an attribute's type: without `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
    static let attributeTypeMask = 0x3FFF
    /// `NLA_F_NESTED`: the mark of an attribute that holds others, which families since Linux 5.2 ask for.
    static let nestedMark = 0x8000
    /// `struct genlmsghdr`: command 1, version 1, reserved 2.
    static let genericSize = 4
    /// `struct ifinfomsg`: family 1, padding 1, device type 2, index 4, flags 4, change mask 4.
    static let linkSize = 16
    /// `struct ifaddrmsg`: family 1, prefix length 1, flags 1, scope 1, index 4.
    static let addressSize = 8
    /// `struct rtmsg`: family, destination length, source length, TOS, table, protocol, scope, type: 1 each; flags 4.
    static let routeSize = 12
    /// `struct rtnexthop`: length 2, flags 1, weight 1, interface 4.
    static let nextHopSize = 8
    /// `struct fib_rule_hdr`: family, destination length, source length, TOS, table, reserved 2, action: 1 each;
    /// flags 4.
    static let ruleSize = 12
    /// `struct tcmsg`: family 1, padding 3, interface 4, handle 4, parent 4, information 4.
    static let trafficSize = 20
    /// `struct nhmsg`: family, scope, protocol, reserved: 1 each; flags 4.
    static let nextHopObjectSize = 8
    /// `struct ndmsg`: family 1, padding 3, interface 4, state 2, flags 1, type 1.
    static let neighborSize = 12
    /// `struct nexthop_grp`: number 4, weight 1, reserved 3.
    static let nextHopMemberSize = 8

    static func aligned(_ size: Int) -> Int { (size &+ alignment &- 1) & ~(alignment &- 1) }
}

/// A message's type: `NLMSG_*` of linux/netlink.h and `RTM_*` of linux/rtnetlink.h.
struct MessageType: RawRepresentable, Hashable {
    var rawValue: UInt16

    static let noOperation = MessageType(rawValue: UInt16(NLMSG_NOOP))
    static let error = MessageType(rawValue: UInt16(NLMSG_ERROR))
    static let done = MessageType(rawValue: UInt16(NLMSG_DONE))
    static let overrun = MessageType(rawValue: UInt16(NLMSG_OVERRUN))
    // GENL_ID_CTRL of linux/genetlink.h: the type of each other family's messages is asked of this one.
    static let genericController = MessageType(rawValue: 16)
    static let newLink = MessageType(rawValue: UInt16(RTM_NEWLINK))
    static let deleteLink = MessageType(rawValue: UInt16(RTM_DELLINK))
    static let getLink = MessageType(rawValue: UInt16(RTM_GETLINK))
    static let newAddress = MessageType(rawValue: UInt16(RTM_NEWADDR))
    static let deleteAddress = MessageType(rawValue: UInt16(RTM_DELADDR))
    static let getAddress = MessageType(rawValue: UInt16(RTM_GETADDR))
    static let newRoute = MessageType(rawValue: UInt16(RTM_NEWROUTE))
    static let deleteRoute = MessageType(rawValue: UInt16(RTM_DELROUTE))
    static let getRoute = MessageType(rawValue: UInt16(RTM_GETROUTE))
    static let newRule = MessageType(rawValue: UInt16(RTM_NEWRULE))
    static let deleteRule = MessageType(rawValue: UInt16(RTM_DELRULE))
    static let getRule = MessageType(rawValue: UInt16(RTM_GETRULE))
    static let newDiscipline = MessageType(rawValue: UInt16(RTM_NEWQDISC))
    static let newFilter = MessageType(rawValue: UInt16(RTM_NEWTFILTER))
    static let deleteFilter = MessageType(rawValue: UInt16(RTM_DELTFILTER))
    static let getFilter = MessageType(rawValue: UInt16(RTM_GETTFILTER))
    // XFRM_MSG_NEWSPDINFO and XFRM_MSG_GETSPDINFO of linux/xfrm.h: of another protocol than the rest.
    static let newSecurityInformation = MessageType(rawValue: 36)
    static let getSecurityInformation = MessageType(rawValue: 37)
    static let newNextHop = MessageType(rawValue: UInt16(RTM_NEWNEXTHOP))
    static let deleteNextHop = MessageType(rawValue: UInt16(RTM_DELNEXTHOP))
    static let getNextHop = MessageType(rawValue: UInt16(RTM_GETNEXTHOP))
    static let newNeighbor = MessageType(rawValue: UInt16(RTM_NEWNEIGH))
    static let deleteNeighbor = MessageType(rawValue: UInt16(RTM_DELNEIGH))
    static let getNeighbor = MessageType(rawValue: UInt16(RTM_GETNEIGH))
}

/// A message's flags: `NLM_F_*` of linux/netlink.h. One bit means different things in different types.
struct MessageFlags: OptionSet, Hashable {
    var rawValue: UInt16

    static let request = MessageFlags(rawValue: 0x1)
    static let acknowledge = MessageFlags(rawValue: 0x4)
    /// In a dump's reply: a table changed while it was read, so that parts may be missing or double.
    static let dumpInterrupted = MessageFlags(rawValue: 0x10)
    /// In an error: the request's payload is left out of it (`NLM_F_CAPPED`).
    static let capped = MessageFlags(rawValue: 0x100)
    /// In an error: attributes follow (`NLM_F_ACK_TLVS`).
    static let hasErrorAttributes = MessageFlags(rawValue: 0x200)
    /// In a get: everything.
    static let dump = MessageFlags(rawValue: 0x300)
    /// In a new: change what is there.
    static let replace = MessageFlags(rawValue: 0x100)
    /// In a new: fail where it is there.
    static let exclusive = MessageFlags(rawValue: 0x200)
    /// In a new: make it where it is not there.
    static let create = MessageFlags(rawValue: 0x400)
}

/// The address families that twill deals with, as rtnetlink numbers them.
enum Family {
    static let unspecified = UInt8(AF_UNSPEC)
    static let v4 = UInt8(AF_INET)
    static let v6 = UInt8(AF_INET6)
    static func number(_ family: AddressFamily) -> UInt8 { family == .ipv4 ? v4 : v6 }
    /// A forwarding database of hardware addresses.
    static let bridge = UInt8(AF_BRIDGE)
}
