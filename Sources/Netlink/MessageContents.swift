import Addresses

// What the messages of the kernel hold. A message of a family or shape that twill does not know decodes to nil
// and is passed over, never guessed at.

/// `IFLA_*` of linux/if_link.h.
enum LinkAttribute {
    static let name = 3
    static let mtu = 4
    static let transmitQueueLength = 13
}

/// `IFA_*` of linux/if_addr.h. With IPv4 `local` is the interface's own address and `address` the peer's, which is
/// the same on other than point-to-point links; IPv6 has `address` alone unless there is a peer.
enum AddressAttribute {
    static let address = 1
    static let local = 2
    static let flags = 8
}

/// `RTA_*` of linux/rtnetlink.h.
enum RouteAttribute {
    static let destination = 1
    static let source = 2
    static let outputInterface = 4
    static let gateway = 5
    static let priority = 6
    static let preferredSource = 7
    static let metrics = 8
    static let cacheInformation = 12
    static let table = 15

    /// `RTAX_*`: numbers inside `metrics`.
    enum Metric {
        static let mtu = 2
    }
}

extension Link {
    /// Decodes an `RTM_NEWLINK` or `RTM_DELLINK`.
    init?(_ message: Message) {
        let attributes = message.attributes(after: MessageLayout.linkSize)
        guard let index = message.payload.number(at: 4, as: Int32.self),
            let flags = message.payload.number(at: 8, as: UInt32.self),
            message.payload.count >= MessageLayout.linkSize, let name = attributes.text(LinkAttribute.name)
        else { return nil }
        self.init(
            index: index, name: name, flags: LinkFlags(rawValue: flags),
            mtu: Int(attributes.number(LinkAttribute.mtu) ?? 0),
            transmitQueueLength: Int(attributes.number(LinkAttribute.transmitQueueLength) ?? 0))
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
            flags: AddressFlags(rawValue: attributes.number(AddressAttribute.flags) ?? UInt32(flags)))
    }
}

extension Route {
    /// `RTM_F_CLONED`: an entry of the cache (what was learnt of one path), not of the table.
    static let clonedFlag: UInt32 = 0x200

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
            gateway: IPAddress(wireBytes: attributes[RouteAttribute.gateway], family: family),
            interfaceIndex: attributes.number(RouteAttribute.outputInterface).map { Int32(bitPattern: $0) },
            preferredSource: IPAddress(wireBytes: attributes[RouteAttribute.preferredSource], family: family),
            metric: attributes.number(RouteAttribute.priority) ?? 0,
            table: attributes.number(RouteAttribute.table) ?? UInt32(table), scope: Scope(rawValue: scope),
            origin: origin,
            mtu: attributes.nested(RouteAttribute.metrics).number(RouteAttribute.Metric.mtu).map(Int.init))
    }
}
