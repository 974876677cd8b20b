import Addresses
import Glibc

/// A request to rtnetlink, but for its sequence number.
struct Request {
    /// What is asked, for errors: `add address 10.66.28.0/32 to interface 7`.
    let operation: String
    /// The message, not yet finished.
    let message: MessageWriter

    init(
        _ operation: String, _ type: MessageType, _ flags: MessageFlags,
        _ build: (inout MessageWriter) -> Void
    ) {
        self.operation = operation
        var message = MessageWriter(type: type, flags: flags.union(.request))
        build(&message)
        self.message = message
    }

    // MARK: Links

    static let links = Request("list interfaces", .getLink, .dump) {
        $0.appendLink(index: 0)
        $0.attribute(LinkAttribute.extraMask, LinkAttribute.withoutCounters)
    }

    static func link(named name: String) -> Request {
        Request("look up interface \(name)", .getLink, .acknowledge) {
            $0.appendLink(index: 0)
            $0.attribute(LinkAttribute.name, name)
        }
    }

    static func link(index: Int32) -> Request {
        Request("look up interface \(index)", .getLink, .acknowledge) { $0.appendLink(index: index) }
    }

    static func setLink(index: Int32, _ change: LinkChange) -> Request {
        var words: [String] = []
        if let isUp = change.isUp { words.append(isUp ? "up" : "down") }
        if let mtu = change.mtu { words.append("MTU \(mtu)") }
        if let length = change.transmitQueueLength { words.append("queue length \(length)") }
        let settings = change.settings.sorted { $0.key.rawValue < $1.key.rawValue }
        words += settings.map { "\($0.key.fileName) \($0.value)" }
        if let address = change.hardwareAddress { words.append("address \(address)") }
        if let alias = change.alias { words.append("alias \(alias)") }
        return Request("set interface \(index) \(words.joined(separator: ", "))", .newLink, .acknowledge) {
            $0.appendLink(
                index: index, flags: change.isUp == true ? .up : [], changes: change.isUp == nil ? [] : .up)
            if let mtu = change.mtu { $0.attribute(LinkAttribute.mtu, UInt32(clamping: mtu)) }
            if let length = change.transmitQueueLength {
                $0.attribute(LinkAttribute.transmitQueueLength, UInt32(clamping: length))
            }
            if let address = change.hardwareAddress {
                $0.attribute(LinkAttribute.hardwareAddress, address.wireBytes)
            }
            if let alias = change.alias { $0.attribute(LinkAttribute.alias, alias) }
            if settings.isEmpty { return }
            $0.nested(LinkAttribute.ofFamilies) {
                $0.nested(Int(AF_INET)) {
                    $0.nested(LinkAttribute.settingsIPv4) {
                        for (setting, value) in settings { $0.attribute(setting.rawValue, value) }
                    }
                }
            }
        }
    }

    /// Makes a tunnel device, which is down at first.
    static func addLink(
        named name: String, mtu: Int, hardwareAddress: HardwareAddress?, _ kind: LinkKind
    ) -> Request {
        Request("make the \(kind.name) device \(name)", .newLink, [.acknowledge, .create, .exclusive]) {
            $0.appendLink(index: 0)
            $0.attribute(LinkAttribute.mtu, UInt32(clamping: mtu))
            if let hardwareAddress {
                $0.attribute(LinkAttribute.hardwareAddress, hardwareAddress.wireBytes)
            }
            $0.attribute(LinkAttribute.name, name)
            $0.nested(LinkAttribute.information) { kind.append(to: &$0) }
        }
    }

    static func deleteLink(index: Int32) -> Request {
        Request("delete interface \(index)", .deleteLink, .acknowledge) { $0.appendLink(index: index) }
    }

    // MARK: Addresses

    static func addresses(family: UInt8) -> Request {
        Request("list addresses", .getAddress, .dump) {
            $0.appendAddress(family: family, prefixLength: 0, scope: .global, interfaceIndex: 0)
        }
    }

    static func addAddress(_ address: InterfaceAddress) -> Request {
        Request(
            "add address \(address.address)/\(address.prefixLength) to interface \(address.interfaceIndex)",
            .newAddress, [.acknowledge, .create, .exclusive]
        ) {
            $0.appendAddress(address)
            $0.attribute(AddressAttribute.address, address.address.wireBytes)
            if address.flags.contains(.withoutDuplicateDetection) {
                $0.attribute(AddressAttribute.flags, AddressFlags.withoutDuplicateDetection.rawValue)
            }
            if address.origin != 0 { $0.attribute(AddressAttribute.origin, [address.origin]) }
        }
    }

    static func deleteAddress(_ address: InterfaceAddress) -> Request {
        Request(
            "delete address \(address.address)/\(address.prefixLength) from interface \(address.interfaceIndex)",
            .deleteAddress, .acknowledge
        ) { $0.appendAddress(address) }
    }

    // MARK: Routes

    static func routes(family: UInt8) -> Request {
        Request("list routes", .getRoute, .dump) {
            $0.appendRoute(
                family: family, destinationLength: 0, table: 0, origin: 0, scope: .global,
                kind: Route.Kind(rawValue: 0))
        }
    }

    /// Lists one table's routes, of one kind where that is given. A kernel before 4.20 answers with all.
    static func routes(inTable table: UInt32, kind: Route.Kind?, family: UInt8) -> Request {
        Request("list routes of table \(table)", .getRoute, .dump) {
            $0.appendRoute(
                family: family, destinationLength: 0, table: table, origin: 0, scope: .global,
                kind: kind ?? Route.Kind(rawValue: 0))
            $0.attribute(RouteAttribute.table, table)
        }
    }

    /// Lists the routes of all tables that one maker has made. A kernel before 4.20 answers with all.
    static func routes(ofOrigin origin: UInt8, family: UInt8) -> Request {
        Request("list routes of protocol \(origin)", .getRoute, .dump) {
            $0.appendRoute(
                family: family, destinationLength: 0, table: 0, origin: origin, scope: .global,
                kind: Route.Kind(rawValue: 0))
        }
    }

    static func route(to address: IPAddress) -> Request {
        Request("look up the route to \(address)", .getRoute, .acknowledge) {
            $0.appendRoute(
                family: address.family, destinationLength: address.bitWidth, table: 0, origin: 0,
                scope: .global,
                kind: Route.Kind(rawValue: 0))
            $0.attribute(RouteAttribute.destination, address.wireBytes)
        }
    }

    /// The way of a packet with that source: what the kernel would do with it, what it learnt of the path included;
    /// or, as an entry, the entry of the table that decides so.
    static func path(to address: IPAddress, from source: IPAddress?, asEntry: Bool) -> Request {
        Request("look up the way to \(address)", .getRoute, .acknowledge) {
            $0.appendRoute(
                family: address.family, destinationLength: address.bitWidth, table: 0, origin: 0,
                scope: .global,
                kind: Route.Kind(rawValue: 0),
                sourceLength: source.map { UInt8(truncatingIfNeeded: $0.bitWidth) } ?? 0,
                flags: asEntry ? Route.matchFlag : 0)
            $0.attribute(RouteAttribute.destination, address.wireBytes)
            if let source { $0.attribute(RouteAttribute.source, source.wireBytes) }
        }
    }

    /// Asks for the route of a table that decides. IPv6 names the table in any case, and a strict kernel refuses the flag that
    /// asks IPv4 to (`inet6_rtm_valid_getroute_req`).
    static func match(_ question: RouteQuestion) -> Request {
        Request("look up the route to \(question.destination)", .getRoute, .acknowledge) {
            let address = question.destination
            $0.appendRoute(
                family: address.family, destinationLength: address.bitWidth, table: 0, origin: 0,
                scope: .global, kind: Route.Kind(rawValue: 0),
                sourceLength: question.source.map { UInt8(truncatingIfNeeded: $0.bitWidth) } ?? 0,
                flags: address.v4 == nil ? Route.matchFlag : Route.matchFlag | Route.tableFlag)
            $0.attribute(RouteAttribute.destination, address.wireBytes)
            if let source = question.source { $0.attribute(RouteAttribute.source, source.wireBytes) }
            if let index = question.inputInterface {
                $0.attribute(RouteAttribute.inputInterface, UInt32(bitPattern: index))
            }
        }
    }

    static func rules(family: UInt8) -> Request {
        Request("list routing rules", .getRule, .dump) {
            $0.append(family)
            for _ in 1..<MessageLayout.ruleSize { $0.append(UInt8(0)) }
        }
    }

    static func deleteRule(_ rule: RoutingRule) -> Request {
        Request("delete rule \(rule)", .deleteRule, .acknowledge) { $0.appendRule(rule) }
    }

    static let nextHops = Request("list next hops", .getNextHop, .dump) {
        for _ in 0..<MessageLayout.nextHopObjectSize { $0.append(UInt8(0)) }
    }

    static func replaceRoute(_ route: Route) -> Request {
        Request("set route \(route)", .newRoute, [.acknowledge, .create, .replace]) { $0.appendRoute(route) }
    }

    static func deleteRoute(_ route: Route) -> Request {
        Request("delete route \(route)", .deleteRoute, .acknowledge) { $0.appendRoute(route) }
    }
}

extension MessageWriter {
    /// Appends a `struct ifinfomsg`. `changes` says which of `flags` count.
    fileprivate mutating func appendLink(index: Int32, flags: LinkFlags = [], changes: LinkFlags = []) {
        append(Family.unspecified)
        append(UInt8(0))
        append(UInt16(0))
        append(index)
        append(flags.rawValue)
        append(changes.rawValue)
    }

    /// Appends a `struct ifaddrmsg`.
    fileprivate mutating func appendAddress(
        family: UInt8, prefixLength: Int, scope: Scope, interfaceIndex: Int32
    ) {
        append(family)
        append(UInt8(clamping: prefixLength))
        append(UInt8(0))  // flags: IFA_FLAGS holds them all
        append(scope.rawValue)
        append(interfaceIndex)
    }

    /// Appends a `struct ifaddrmsg` and the attributes that name the address.
    fileprivate mutating func appendAddress(_ address: InterfaceAddress) {
        appendAddress(
            family: address.address.family, prefixLength: address.prefixLength, scope: address.scope,
            interfaceIndex: address.interfaceIndex)
        attribute(AddressAttribute.local, address.address.wireBytes)
    }

    /// Appends a `struct rtmsg`.
    fileprivate mutating func appendRoute(
        family: UInt8, destinationLength: Int, table: UInt32, origin: UInt8, scope: Scope, kind: Route.Kind,
        sourceLength: UInt8 = 0, typeOfService: UInt8 = 0, flags: UInt32 = 0
    ) {
        append(family)
        append(UInt8(clamping: destinationLength))
        append(sourceLength)
        append(typeOfService)
        append(UInt8(exactly: table) ?? 0)  // a larger number stands in its attribute alone
        append(origin)
        append(scope.rawValue)
        append(kind.rawValue)
        append(flags)
    }

    /// Appends a `struct fib_rule_hdr` and the attributes that name the rule.
    fileprivate mutating func appendRule(_ rule: RoutingRule) {
        append(Family.number(rule.family))
        append(UInt8(clamping: rule.destination?.length ?? 0))
        append(UInt8(clamping: rule.source?.length ?? 0))
        append(UInt8(0))  // type of service
        append(UInt8(exactly: rule.table) ?? 0)  // a larger number stands in its attribute alone
        append(UInt16(0))
        append(rule.action.rawValue)
        append(rule.isInverted ? RoutingRule.invertFlag : 0)
        attribute(RuleAttribute.priority, rule.priority)
        if rule.table != 0 { attribute(RuleAttribute.table, rule.table) }
        if let destination = rule.destination {
            attribute(RuleAttribute.destination, destination.address.wireBytes)
        }
        if let source = rule.source {
            attribute(RuleAttribute.source, source.address.wireBytes)
        }
        if let inputInterface = rule.inputInterface {
            attribute(RuleAttribute.inputInterface, inputInterface)
        }
        if let outputInterface = rule.outputInterface {
            attribute(RuleAttribute.outputInterface, outputInterface)
        }
        if rule.markMask != 0 {
            attribute(RuleAttribute.mark, rule.mark)
            attribute(RuleAttribute.markMask, rule.markMask)
        }
        if rule.origin != 0 { attribute(RuleAttribute.origin, [rule.origin]) }
    }

    /// Appends a `struct rtmsg` and its attributes.
    fileprivate mutating func appendRoute(_ route: Route) {
        appendRoute(
            family: route.destination.address.family, destinationLength: route.destination.length,
            table: route.table, origin: route.origin, scope: route.scope, kind: route.kind,
            typeOfService: route.typeOfService, flags: route.isOnLink ? Route.onLinkFlag : 0)
        if route.destination.length > 0 {
            attribute(RouteAttribute.destination, route.destination.address.wireBytes)
        }
        if UInt8(exactly: route.table) == nil { attribute(RouteAttribute.table, route.table) }
        if route.metric != 0 { attribute(RouteAttribute.priority, route.metric) }
        if let index = route.interfaceIndex {
            attribute(RouteAttribute.outputInterface, UInt32(bitPattern: index))
        }
        if let gateway = route.gateway {
            if gateway.family == route.destination.address.family {
                attribute(RouteAttribute.gateway, gateway.wireBytes)
            } else {
                let family = withUnsafeBytes(of: UInt16(gateway.family)) { Array($0) }
                attribute(RouteAttribute.via, family + gateway.wireBytes)
            }
        }
        if let source = route.preferredSource { attribute(RouteAttribute.preferredSource, source.wireBytes) }
        if let mtu = route.mtu {
            nested(RouteAttribute.metrics) { $0.attribute(RouteAttribute.Metric.mtu, UInt32(clamping: mtu)) }
        }
    }
}
