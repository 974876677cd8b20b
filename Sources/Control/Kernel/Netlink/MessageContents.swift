import Addresses

// What the messages of the kernel hold. A message of a family or shape that twill does not know decodes to nil
// and is passed over, never guessed at.

/// `IFLA_*` of linux/if_link.h.
enum LinkAttribute {
    static let hardwareAddress = 1
    static let name = 3
    static let mtu = 4
    static let master = 10
    static let transmitQueueLength = 13
    /// `IFLA_LINKINFO`: holds the kind, and what a device of that kind has (`LinkInformation`).
    static let information = 18
    static let alias = 20
    /// `IFLA_AF_SPEC`: holds an attribute for each family, by its number.
    static let ofFamilies = 26
    /// `IFLA_INET_CONF`, in that of IPv4: holds a value for each setting, by its number.
    static let settingsIPv4 = 1
    static let extraMask = 29

    /// `ARPHRD_ETHER` of linux/if_arp.h.
    static let ethernet: UInt16 = 1

    /// `RTEXT_FILTER_SKIP_STATS`: two thirds of a link's message are counters.
    static let withoutCounters: UInt32 = 8
}

/// `IFA_*` of linux/if_addr.h. With IPv4 `local` is the interface's own address and `address` the peer's, which is
/// the same on other than point-to-point links; IPv6 has `address` alone unless there is a peer.
enum AddressAttribute {
    static let address = 1
    static let local = 2
    static let flags = 8
    /// Since Linux 5.18; an older kernel passes over it.
    static let origin = 11
}

/// `RTA_*` of linux/rtnetlink.h.
enum RouteAttribute {
    static let destination = 1
    static let source = 2
    static let inputInterface = 3
    static let outputInterface = 4
    static let gateway = 5
    static let priority = 6
    static let preferredSource = 7
    static let metrics = 8
    static let nextHops = 9
    static let cacheInformation = 12
    static let table = 15
    static let via = 18
    static let nextHopGroup = 30

    /// `RTAX_*`: numbers inside `metrics`.
    enum Metric {
        static let mtu = 2
    }
}

/// `FRA_*` of linux/fib_rules.h.
enum RuleAttribute {
    static let destination = 1
    static let source = 2
    static let inputInterface = 3
    static let priority = 6
    static let mark = 10
    static let table = 15
    static let markMask = 16
    static let outputInterface = 17
    static let origin = 21
}

/// `TCA_*` of linux/rtnetlink.h.
enum TrafficAttribute {
    static let kind = 1
    static let options = 2

    /// `TCA_BPF_*` of linux/pkt_cls.h: numbers inside `options`.
    enum Program {
        static let descriptor = 6
        static let name = 7
        static let flags = 8
        static let identifier = 11
    }
}

/// `NHA_*` of linux/nexthop.h.
enum NextHopAttribute {
    static let identifier = 1
    static let group = 2
    static let outputInterface = 5
    static let gateway = 6
}

extension Link {
    /// Decodes an `RTM_NEWLINK` or `RTM_DELLINK`.
    init?(_ message: Message) {
        let attributes = message.attributes(after: MessageLayout.linkSize)
        guard let index = message.payload.number(at: 4, as: Int32.self),
            let flags = message.payload.number(at: 8, as: UInt32.self),
            message.payload.count >= MessageLayout.linkSize, let name = attributes.text(LinkAttribute.name),
            let deviceType = message.payload.number(at: 2, as: UInt16.self)
        else { return nil }
        self.init(
            index: index, name: name, flags: LinkFlags(rawValue: flags),
            mtu: Int(attributes.number(LinkAttribute.mtu) ?? 0),
            transmitQueueLength: Int(attributes.number(LinkAttribute.transmitQueueLength) ?? 0),
            masterIndex: attributes.number(LinkAttribute.master).flatMap { Int32(exactly: $0) },
            isEthernet: deviceType == LinkAttribute.ethernet)
        hardwareAddress = attributes[LinkAttribute.hardwareAddress].flatMap { HardwareAddress(wireBytes: $0) }
        alias = attributes.text(LinkAttribute.alias)
        kind = LinkKind(attributes.nested(LinkAttribute.information))
    }
}

extension InterfaceAddress {
    /// Decodes an `RTM_NEWADDR` or `RTM_DELADDR`.
    init?(_ message: Message) {
        let attributes = message.attributes(after: MessageLayout.addressSize)
        guard let family = message.payload.number(at: 0, as: UInt8.self),
            let prefixLength = message.payload.number(at: 1, as: UInt8.self),
            let flags = message.payload.number(at: 2, as: UInt8.self),
            let scope = message.payload.number(at: 3, as: UInt8.self),
            let interfaceIndex = message.payload.number(at: 4, as: Int32.self),
            let address = IPAddress(
                wireBytes: attributes[AddressAttribute.local] ?? attributes[AddressAttribute.address],
                family: family),
            prefixLength <= address.bitWidth
        else { return nil }
        self.init(
            interfaceIndex: interfaceIndex, address: address, prefixLength: Int(prefixLength),
            scope: Scope(rawValue: scope),
            flags: AddressFlags(rawValue: attributes.number(AddressAttribute.flags) ?? UInt32(flags)),
            origin: attributes[AddressAttribute.origin]?.first ?? 0)
    }
}

extension Route {
    /// `RTM_F_CLONED`: an entry of the cache (what was learnt of one path), not of the table.
    static let clonedFlag: UInt32 = 0x200

    /// `RTM_F_FIB_MATCH`: the answer to a look-up is the table's route that matched, not the way of one packet.
    static let matchFlag: UInt32 = 0x2000

    /// `RTM_F_LOOKUP_TABLE`: the answer names the table in which the route was found, and not always the main one.
    static let tableFlag: UInt32 = 0x1000

    /// `RTNH_F_ONLINK`: the next hop counts as one of the link, whatever the addresses there say.
    static let onLinkFlag: UInt32 = 4

    /// Decodes an `RTM_NEWROUTE` or `RTM_DELROUTE` of a table; nil for cache entries.
    init?(_ message: Message) {
        if Route.isLearnt(message) { return nil }
        self.init(answer: message)
    }

    /// Whether a route message is about an entry of the cache.
    static func isLearnt(_ message: Message) -> Bool {
        (message.payload.number(at: 8, as: UInt32.self) ?? 0) & clonedFlag != 0
    }

    /// Decodes the answer to a look-up, which is a cache entry.
    init?(answer message: Message) {
        let attributes = message.attributes(after: MessageLayout.routeSize)
        guard let family = message.payload.number(at: 0, as: UInt8.self),
            let length = message.payload.number(at: 1, as: UInt8.self).map(Int.init),
            let typeOfService = message.payload.number(at: 3, as: UInt8.self),
            let table = message.payload.number(at: 4, as: UInt8.self),
            let origin = message.payload.number(at: 5, as: UInt8.self),
            let scope = message.payload.number(at: 6, as: UInt8.self),
            let kind = message.payload.number(at: 7, as: UInt8.self),
            message.payload.count >= MessageLayout.routeSize,
            let destination = IPAddress(wireBytes: attributes[RouteAttribute.destination], family: family)
                ?? IPAddress.any(family: family),
            length <= destination.bitWidth
        else { return nil }
        self.init(
            to: IPPrefix(destination, length: length), kind: Kind(rawValue: kind),
            gateway: IPAddress(wireBytes: attributes[RouteAttribute.gateway], family: family)
                ?? IPAddress(via: attributes[RouteAttribute.via]),
            interfaceIndex: attributes.number(RouteAttribute.outputInterface).map { Int32(bitPattern: $0) },
            preferredSource: IPAddress(wireBytes: attributes[RouteAttribute.preferredSource], family: family),
            metric: attributes.number(RouteAttribute.priority) ?? 0,
            table: attributes.number(RouteAttribute.table) ?? UInt32(table), scope: Scope(rawValue: scope),
            origin: origin,
            mtu: attributes.nested(RouteAttribute.metrics).number(RouteAttribute.Metric.mtu).map(Int.init))
        nextHops = Route.nextHops(attributes[RouteAttribute.nextHops] ?? [], family: family)
        nextHopGroup = attributes.number(RouteAttribute.nextHopGroup)
        isOnLink = (message.payload.number(at: 8, as: UInt32.self) ?? 0) & Route.onLinkFlag != 0
        self.typeOfService = typeOfService
    }

    /// Decodes `RTA_MULTIPATH`: each next hop is a `struct rtnexthop` (length 2, flags 1, weight 1, interface 4),
    /// whose length counts the attributes that follow it.
    private static func nextHops(_ bytes: ArraySlice<UInt8>, family: UInt8) -> [NextHop] {
        var hops: [NextHop] = []
        var rest = bytes
        while let length = rest.number(at: 0, as: UInt16.self).map(Int.init),
            let interfaceIndex = rest.number(at: 4, as: Int32.self),
            length >= MessageLayout.nextHopSize, length <= rest.count
        {
            let attributes = Attributes(rest.prefix(length).dropFirst(MessageLayout.nextHopSize))
            hops.append(
                NextHop(
                    interfaceIndex: interfaceIndex,
                    gateway: IPAddress(wireBytes: attributes[RouteAttribute.gateway], family: family)
                        ?? IPAddress(via: attributes[RouteAttribute.via])))
            rest = rest.dropFirst(MessageLayout.aligned(length))
        }
        return hops
    }
}

extension RoutingRule {
    /// Decodes an `RTM_NEWRULE` or `RTM_DELRULE` of IPv4 or IPv6.
    init?(_ message: Message) {
        let attributes = message.attributes(after: MessageLayout.ruleSize)
        guard let number = message.payload.number(at: 0, as: UInt8.self),
            let any = IPAddress.any(family: number),
            let destinationLength = message.payload.number(at: 1, as: UInt8.self).map(Int.init),
            let sourceLength = message.payload.number(at: 2, as: UInt8.self).map(Int.init),
            let table = message.payload.number(at: 4, as: UInt8.self),
            let action = message.payload.number(at: 7, as: UInt8.self),
            let flags = message.payload.number(at: 8, as: UInt32.self),
            destinationLength <= any.bitWidth, sourceLength <= any.bitWidth
        else { return nil }
        func prefix(_ attribute: Int, _ length: Int) -> IPPrefix? {
            guard length > 0 else { return nil }
            return IPAddress(wireBytes: attributes[attribute], family: number).map {
                IPPrefix($0, length: length)
            }
        }
        self.init(
            any.addressFamily, priority: attributes.number(RuleAttribute.priority) ?? 0,
            action: Action(rawValue: action),
            table: attributes.number(RuleAttribute.table) ?? UInt32(table))
        destination = prefix(RuleAttribute.destination, destinationLength)
        source = prefix(RuleAttribute.source, sourceLength)
        inputInterface = attributes.text(RuleAttribute.inputInterface)
        outputInterface = attributes.text(RuleAttribute.outputInterface)
        mark = attributes.number(RuleAttribute.mark) ?? 0
        markMask = attributes.number(RuleAttribute.markMask) ?? 0
        isInverted = flags & RoutingRule.invertFlag != 0
        origin = attributes[RuleAttribute.origin]?.first ?? 0
    }
}

/// A next-hop object: one next hop, or the group of those whose numbers are listed.
struct NextHopObject {
    let identifier: UInt32
    let hop: Route.NextHop?
    let members: [UInt32]

    /// Decodes an `RTM_NEWNEXTHOP`. A group's members are `struct nexthop_grp` (number 4, weight 1, reserved 3).
    init?(_ message: Message) {
        let attributes = message.attributes(after: MessageLayout.nextHopObjectSize)
        guard let family = message.payload.number(at: 0, as: UInt8.self),
            let identifier = attributes.number(NextHopAttribute.identifier)
        else { return nil }
        self.identifier = identifier
        hop = attributes.number(NextHopAttribute.outputInterface).map {
            Route.NextHop(
                interfaceIndex: Int32(bitPattern: $0),
                gateway: IPAddress(wireBytes: attributes[NextHopAttribute.gateway], family: family))
        }
        let group = attributes[NextHopAttribute.group] ?? []
        members = stride(from: 0, to: group.count, by: MessageLayout.nextHopMemberSize).compactMap {
            group.number(at: $0, as: UInt32.self)
        }
    }
}
