import Addresses
import FoundationEssentials
import Glibc
import NetworkNamespaces
import Testing

@testable import Netlink

/// The real kernel, in network namespaces that the tests make; ip(8) is the other opinion.
@Suite(.enabled(if: namespacesAreExpected, "network namespaces need root and iproute2"))
struct KernelTests {
    /// A namespace with an up veth pair `node-t0` (10.1.2.3/24, fd00::5/64) and `node-t1`.
    private func namespace() async throws -> NetworkNamespace.Lease {
        let namespace = try await NetworkNamespace.make()
        try await namespace.run {
            try execute(
                """
                ip link add node-t0 mtu 1400 txqueuelen 77 type veth peer name node-t1 && \
                ip link set node-t1 up && ip link set node-t0 up && ip addr add 10.1.2.3/24 dev node-t0 && \
                ip -6 addr add fd00::5/64 dev node-t0 nodad
                """)
        }
        return namespace
    }

    @Test func links() async throws {
        try await namespace().run {
            let socket = try RouteSocket()
            #expect(try Set(socket.links().map(\.name)).isSuperset(of: ["lo", "node-t0", "node-t1"]))
            let link = try #require(try socket.link(named: "node-t0"))
            #expect(link.mtu == 1400 && link.transmitQueueLength == 77 && link.isUp)
            #expect(try socket.link(index: link.index) == link)
            #expect(try socket.link(named: "node-t9") == nil)
            #expect(try socket.link(index: 9999) == nil)

            try socket.setLink(
                index: link.index, LinkChange(isUp: false, mtu: 1300, transmitQueueLength: 500))
            let changed = try #require(try socket.link(named: "node-t0"))
            #expect(changed.mtu == 1300 && changed.transmitQueueLength == 500 && !changed.isUp)
            #expect(try execute("ip link show node-t0").contains("mtu 1300"))

            try socket.deleteLink(index: link.index)
            #expect(try socket.link(named: "node-t0") == nil)
            let error = #expect(throws: NetlinkError.self) {
                try socket.setLink(index: link.index, LinkChange(isUp: true))
            }
            #expect(error?.code == ENODEV)
        }
    }

    @Test func addresses() async throws {
        try await namespace().run {
            let socket = try RouteSocket()
            let index = try #require(try socket.link(named: "node-t0")).index
            let address = InterfaceAddress(
                interfaceIndex: index, address: IPAddress("10.66.28.0")!, prefixLength: 32)
            try socket.addAddress(address)
            try socket.addAddress(address)
            #expect(try socket.addresses().contains(address))
            #expect(try execute("ip addr show node-t0").contains("inet 10.66.28.0/32 scope global"))
            try socket.deleteAddress(address)
            #expect(try !socket.addresses().contains(address))
            let error = #expect(throws: NetlinkError.self) { try socket.deleteAddress(address) }
            #expect(error?.code == EADDRNOTAVAIL)

            let other = InterfaceAddress(
                interfaceIndex: index, address: IPAddress("fd00:1::1")!, prefixLength: 64)
            try socket.addAddress(other)
            #expect(try socket.addresses().contains { $0.address == other.address && $0.prefixLength == 64 })
            try socket.deleteAddress(other)
            #expect(try !socket.addresses().contains { $0.address == other.address })

            try execute("ip addr add 10.1.2.99/24 dev node-t0 valid_lft 1000 preferred_lft 0")
            let dynamic = try #require(try socket.addresses().first { $0.address == IPAddress("10.1.2.99")! })
            #expect(dynamic.flags.contains(.deprecated) && !dynamic.flags.contains(.permanent))
        }
    }

    @Test func routes() async throws {
        try await namespace().run {
            let socket = try RouteSocket()
            let index = try #require(try socket.link(named: "node-t0")).index
            let overlay = Route(to: .v4(IPv4Prefix("10.66.0.0/16")!), interfaceIndex: index, scope: .link)
            try socket.replaceRoute(overlay)
            try socket.replaceRoute(overlay)
            #expect(try socket.routes().filter { $0.destination == overlay.destination } == [overlay])
            #expect(try execute("ip route show 10.66.0.0/16").contains("10.66.0.0/16 dev node-t0 scope link"))

            var narrow = overlay
            narrow.mtu = 1280
            try socket.replaceRoute(narrow)
            #expect(try socket.routes().filter { $0.destination == overlay.destination } == [narrow])
            #expect(try socket.route(to: IPAddress("10.66.1.1")!).mtu == 1280)
            #expect(try socket.route(to: IPAddress("10.66.1.1")!).preferredSource == IPAddress("10.1.2.3")!)
            try socket.deleteRoute(narrow)
            #expect(try !socket.routes().contains { $0.destination == overlay.destination })

            let hole = Route(to: .v4(IPv4Prefix("10.66.28.0/24")!), kind: .blackhole, metric: .max)
            try socket.replaceRoute(hole)
            #expect(try execute("ip route show type blackhole").contains("blackhole 10.66.28.0/24"))
            #expect(try socket.routes().contains(hole))
            try socket.deleteRoute(hole)

            let gateway = Route(
                to: .v4(IPv4Prefix("0.0.0.0/0")!), gateway: IPAddress("10.1.2.1")!, interfaceIndex: index,
                metric: 7)
            try socket.replaceRoute(gateway)
            #expect(try socket.routes().contains(gateway))
            #expect(try socket.route(to: IPAddress("8.8.8.8")!).gateway == IPAddress("10.1.2.1")!)

            let v6 = Route(
                to: .v6(IPv6Prefix("fd00:2::/64")!), gateway: IPAddress("fd00::1")!, interfaceIndex: index,
                metric: 1024)
            try socket.replaceRoute(v6)
            #expect(try socket.routes().contains(v6))
            try socket.deleteRoute(v6)
            #expect(try !socket.routes().contains(v6))

            let error = #expect(throws: NetlinkError.self) { try socket.route(to: IPAddress("fd99::1")!) }
            #expect(error?.code == ENETUNREACH)
        }
    }

    /// Devices and their tables of either family, made here and read by ip(8) and bridge(8), and the other way round.
    @Test(arguments: [
        ("10.1.2.3", "10.1.2.9", "10.66.3.0", "10.66.3.0/24"),
        ("fd00::5", "fd00::9", "fd66:0:0:3::", "fd66:0:0:3::/64"),
    ])
    func vxlan(local: String, remote: String, gateway: String, subnet: String) async throws {
        try await namespace().run {
            let socket = try RouteSocket()
            let lower = try #require(try socket.link(named: "node-t0")).index
            let (local, remote) = (try #require(IPAddress(local)), try #require(IPAddress(remote)))
            let gateway = try #require(IPAddress(gateway))
            let own = try #require(HardwareAddress("02:58:0a:42:1c:00"))
            let attributes = VXLANAttributes(
                identifier: 7, lowerIndex: lower, localAddress: local, port: 8472, hasGroupPolicy: true)
            try socket.addLink(named: "flannel.7", mtu: 1300, hardwareAddress: own, .vxlan(attributes))
            let refused = #expect(throws: NetlinkError.self) {
                try socket.addLink(named: "flannel.7", mtu: 1300, hardwareAddress: own, .vxlan(attributes))
            }
            #expect(refused?.code == EEXIST)
            let index = try #require(try socket.link(named: "flannel.7")).index
            try socket.setLink(index: index, LinkChange(isUp: true, alias: "twilld /run/x"))
            let link = try #require(try socket.link(named: "flannel.7"))
            #expect(link.vxlan == attributes && link.hardwareAddress == own && link.mtu == 1300)
            #expect(link.alias == "twilld /run/x" && link.isUp)
            let words = try execute("ip -d link show flannel.7")
            for word in ["vxlan id 7", "\(local) dev node-t0", "dstport 8472", "nolearning", "gbp", "\(own)"]
            {
                #expect(words.contains(word), "\(word) in \(words)")
            }

            let other = try #require(HardwareAddress("02:58:0a:42:03:00"))
            let entries = [
                Neighbor(.neighbors, interfaceIndex: index, address: gateway, hardwareAddress: other),
                Neighbor(.forwarding, interfaceIndex: index, address: remote, hardwareAddress: other),
            ]
            for entry in entries {
                try socket.replaceNeighbor(entry)
                try socket.replaceNeighbor(entry)
                #expect(
                    try socket.neighbors(entry.table, ofInterface: index).filter(\.isPermanent) == [entry])
                #expect(try socket.neighbors(entry.table, ofInterface: lower).filter(\.isPermanent).isEmpty)
            }
            #expect(
                try execute("ip neigh show dev flannel.7").contains("\(gateway) lladdr \(other) PERMANENT"))
            #expect(
                try execute("bridge fdb show dev flannel.7").contains("\(other) dst \(remote) self permanent")
            )

            var route = Route(
                to: try #require(IPv4Prefix(subnet).map { .v4($0) } ?? IPv6Prefix(subnet).map { .v6($0) }),
                gateway: gateway, interfaceIndex: index, origin: Route.twillOrigin)
            route.metric = route.destination.usualRouteMetric
            route.isOnLink = true
            try socket.replaceRoute(route)
            #expect(try socket.routes().filter { $0.destination == route.destination } == [route])
            #expect(
                try execute("ip \(local.v6 == nil ? "-4" : "-6") route show \(subnet)").contains("onlink"))

            for entry in entries { try socket.deleteNeighbor(entry) }
            #expect(try execute("bridge fdb show dev flannel.7") == "")
            try execute("ip link add name flannel.8 type vxlan id 8 dev node-t0 dstport 4789 learning")
            let made = try #require(try socket.link(named: "flannel.8")?.vxlan)
            #expect(
                made
                    == VXLANAttributes(
                        identifier: 8, lowerIndex: lower, localAddress: nil, port: 4789, learns: true))
        }
    }

    @Test func changesOfNeighboursAreTold() async throws {
        let namespace = try await namespace()
        let (monitor, index) = try await namespace.run {
            try execute(
                "ip link add name flannel.7 type vxlan id 7 dev node-t0 dstport 8472 && ip link set flannel.7 up"
            )
            return (
                try RouteMonitor.ofNeighbors(), try #require(try RouteSocket().link(named: "flannel.7")).index
            )
        }
        var changes = monitor.changes.makeAsyncIterator()
        for command in [
            "bridge fdb replace 02:58:0a:42:03:00 dst 10.1.2.9 dev flannel.7 self permanent",
            "bridge fdb del 02:58:0a:42:03:00 dev flannel.7 self",
            "ip neigh replace 10.1.2.9 lladdr 02:58:0a:42:03:00 dev flannel.7 nud permanent",
            // Told without a hardware address, which a neighbour that is about to go no longer has.
            "ip neigh del 10.1.2.9 dev flannel.7",
            "ip neigh replace fd00::9 lladdr 02:58:0a:42:03:00 dev flannel.7 nud permanent",
            "ip neigh del fd00::9 dev flannel.7",
        ] {
            try await namespace.run { try execute(command) }
            while await changes.next() != .neighbor(ofInterface: index) {}
        }
    }

    /// Lists longer than one datagram, and two threads that ask at once.
    @Test func manyRoutesForManyAskers() async throws {
        let namespace = try await namespace()
        let socket = try await namespace.run {
            let socket = try RouteSocket()
            let index = try #require(try socket.link(named: "node-t0")).index
            for number in 0..<1000 {
                let prefix = IPv4Prefix(IPv4Address(bits: 0x0AC8_0000 + UInt32(number) << 4), length: 28)
                try socket.replaceRoute(Route(to: .v4(prefix), interfaceIndex: index, scope: .link))
            }
            return socket
        }
        try await withThrowingTaskGroup { group in
            for _ in 0..<4 {
                group.addTask { try socket.routes().count { $0.destination.length == 28 } }
            }
            for try await count in group { #expect(count == 1000) }
        }
    }

    @Test(.timeLimit(.minutes(1))) func changesAreTold() async throws {
        let namespace = try await namespace()
        let monitor = try await namespace.run { try RouteMonitor() }
        try await namespace.run {
            try execute(
                """
                ip addr add 10.66.28.0/32 dev node-t0 && ip route add 10.66.0.0/16 dev node-t0 && \
                ip addr del 10.66.28.0/32 dev node-t0 && ip route del 10.66.0.0/16 dev node-t0 && \
                ip rule add to 10.66.0.0/16 lookup 52 priority 5270 && ip nexthop add id 7 dev node-t0 && \
                ip link set node-t0 down && ip link del node-t0
                """)
        }
        var told: [String] = []
        for await change in monitor.changes {
            switch change {
            case .address(let address) where address.address == IPAddress("10.66.28.0")!:
                told.append("address")
            case .addressRemoved(let address) where address.address == IPAddress("10.66.28.0")!:
                told.append("address removed")
            case .route(let route) where route.destination.description == "10.66.0.0/16": told.append("route")
            case .routeRemoved(let route) where route.destination.description == "10.66.0.0/16":
                told.append("route removed")
            case .rule(let rule): told.append("rule \(rule)")
            case .nextHop where told.last != "next hop" && told.last != "down": told.append("next hop")
            case .link(let link) where link.name == "node-t0" && !link.isUp && told.last != "down":
                told.append("down")
            case .linkRemoved(let link) where link.name == "node-t0": told.append("gone")
            default: break
            }
            if told.last == "gone" { break }
        }
        #expect(
            told == [
                "address", "route", "address removed", "route removed",
                "rule 5270: from all to 10.66.0.0/16 lookup 52", "next hop", "down", "gone",
            ])
    }

    @Test(.timeLimit(.minutes(1))) func routesOfNoInterestAreNotTold() async throws {
        let namespace = try await namespace()
        let monitor = try await namespace.run { try RouteMonitor() }
        monitor.watch(RouteInterest(prefixes: [IPv4Prefix("10.66.0.0/16")!]))
        try await namespace.run {
            try execute(
                """
                ip route add 10.66.1.0/24 dev node-t0 && \
                ip route add 10.67.0.0/16 dev node-t0 && ip route add 10.66.7.0/24 dev node-t0 table 52 && \
                ip route add 10.68.0.0/16 dev node-t0 && ip route add 10.64.0.0/10 dev node-t0 && \
                ip route add default via 10.1.2.1 && ip link set node-t1 down
                """)
        }
        var told: [String] = []
        for await change in monitor.changes {
            if case .route(let route) = change { told.append("\(route.destination)") }
            // What the kernel told of before the monitor knew what is of interest: the links' own routes.
            if told.last == "10.66.1.0/24" { told.removeAll() }
            if case .link(let link) = change, link.name == "node-t1", !link.isUp { break }
        }
        #expect(told == ["10.66.7.0/24", "10.64.0.0/10", "0.0.0.0/0"])
    }

    /// Each way in which a route can have other next hops than one.
    @Test(arguments: ["1", "0"]) func routesWithSeveralNextHops(compatible: String) async throws {
        try await namespace().run {
            try execute(
                """
                sysctl -qw net.ipv4.nexthop_compat_mode=\(compatible) && \
                ip link add node-t2 type veth peer name node-t3 && ip link set node-t3 up && ip link set node-t2 up && ip addr add 10.2.2.3/24 dev node-t2 && \
                ip route add default nexthop via 10.1.2.1 dev node-t0 nexthop via 10.2.2.1 dev node-t2 && \
                ip route add 10.66.0.0/16 via inet6 fd00::9 dev node-t0 && \
                ip nexthop add id 1 via 10.1.2.1 dev node-t0 && ip nexthop add id 2 via 10.2.2.1 dev node-t2 && \
                ip nexthop add id 3 group 1/2 && ip route add 10.67.0.0/16 nhid 3
                """)
            let socket = try RouteSocket()
            let first = try #require(try socket.link(named: "node-t0")).index
            let second = try #require(try socket.link(named: "node-t2")).index
            let interest = RouteInterest(prefixes: [IPv4Prefix("10.66.0.0/15")!])
            let routes = try socket.routes(of: interest)
            let hops = [
                Route.NextHop(interfaceIndex: first, gateway: IPAddress("10.1.2.1")!),
                Route.NextHop(interfaceIndex: second, gateway: IPAddress("10.2.2.1")!),
            ]
            #expect(routes.first { $0.destination.length == 0 }?.nextHops == hops)
            #expect(routes.first { "\($0.destination)" == "10.66.0.0/16" }?.gateway == IPAddress("fd00::9")!)
            let grouped = try #require(routes.first { "\($0.destination)" == "10.67.0.0/16" })
            #expect(grouped.nextHopGroup == 3 && grouped.nextHops == (compatible == "1" ? hops : []))
            #expect(try socket.nextHops() == [1: [hops[0]], 2: [hops[1]], 3: hops])
            // A route by a next hop of the other family can be put back as it was.
            let byIPv6 = try #require(routes.first { "\($0.destination)" == "10.66.0.0/16" })
            try socket.deleteRoute(byIPv6)
            try socket.replaceRoute(byIPv6)
            #expect(try socket.routes(of: interest).contains(byIPv6))
        }
    }

    @Test func whereThePacketsGoIsTheKernelsWord() async throws {
        try await namespace().run {
            try execute(
                """
                ip route add 10.66.0.0/16 dev node-t0 && ip route add blackhole 10.66.9.0/24 && \
                ip route add 10.66.7.0/24 dev node-t0 table 52 proto 186 && \
                ip rule add lookup 52 priority 5270 && ip rule add to 10.66.8.0/24 prohibit priority 99
                """)
            let socket = try RouteSocket()
            func route(_ text: String) throws -> String {
                switch try socket.answer(to: RouteQuestion(to: IPAddress(text)!)) {
                case .route(let route): "\(route.destination) table \(route.table) \(route.originText)"
                case .refused(let code): String(cString: strerror(code))
                }
            }
            #expect(try route("10.66.1.2") == "10.66.0.0/16 table 254 proto 3 (boot)")
            #expect(try route("10.66.7.2") == "10.66.7.0/24 table 52 proto 186 (bgp)")
            #expect(try route("10.66.8.2") == "Permission denied")
            #expect(try route("10.66.9.2") == "Invalid argument")
            #expect(try route("10.1.2.3") == "10.1.2.3/32 table 255 proto 2 (kernel)")
            try execute(
                "ip rule add not from 10.0.0.0/8 fwmark 0x10/0xff iif node-t0 unreachable priority 98")
            #expect(try route("10.66.1.2") == "Network is unreachable")
            #expect(
                try socket.rules(.ipv4).map(\.description) == [
                    "0: from all lookup local",
                    "98: not from 10.0.0.0/8 fwmark 0x10/0xff iif node-t0 unreachable",
                    "99: from all to 10.66.8.0/24 prohibit", "5270: from all lookup 52",
                    "32766: from all lookup main", "32767: from all lookup default",
                ])
            #expect(
                try socket.routes(inTable: Route.mainTable, of: .blackhole, .ipv4).map { "\($0)" } == [
                    "blackhole 10.66.9.0/24"
                ])
            #expect(try socket.routes(inTable: 52, of: .unicast, .ipv4).count == 1)
            #expect(try socket.routes(inTable: 99, of: .unicast, .ipv4).isEmpty)
        }
    }

    @Test func whereIPv6PacketsGoIsTheKernelsWord() async throws {
        try await namespace().run {
            try execute(
                """
                ip route add fd00:66::/48 dev node-t0 && ip route add blackhole fd00:66:0:9::/64 && \
                ip route add fd00:66:0:7::/64 dev node-t0 table 52 proto 186 && \
                ip -6 rule add lookup 52 priority 5270 && ip -6 rule add to fd00:66:0:8::/64 prohibit priority 99
                """)
            let socket = try RouteSocket()
            let index = try #require(try socket.link(named: "node-t0")).index
            func route(_ text: String, _ source: String? = nil) throws -> String {
                let question = RouteQuestion(
                    to: IPAddress(text)!, from: source.flatMap { IPAddress($0) },
                    by: source == nil ? nil : index)
                return switch try socket.answer(to: question) {
                case .route(let route): "\(route.destination) table \(route.table) \(route.originText)"
                case .refused(let code): String(cString: strerror(code))
                }
            }
            #expect(try route("fd00:66:0:1::2") == "fd00:66::/48 table 254 proto 3 (boot)")
            #expect(try route("fd00:66:0:7::2") == "fd00:66:0:7::/64 table 52 proto 186 (bgp)")
            #expect(try route("fd00:66:0:8::2") == "Permission denied")
            #expect(try route("fd00:66:0:9::2") == "Invalid argument")
            // A route without a way out is another thing than one that is found.
            #expect(try route("fd99::1") == "Network is unreachable")
            #expect(
                try route("fd00:66:0:7::2", "fd00:66:0:1::9") == "fd00:66:0:7::/64 table 52 proto 186 (bgp)")
            try execute(
                "ip -6 rule add not from fd12::/16 fwmark 0x10/0xff iif node-t0 unreachable priority 98; ip -6 rule add from fd00:66:0:1::/64 iif node-t0 prohibit priority 97"
            )
            #expect(try route("fd00:66:0:1::2") == "Network is unreachable")
            #expect(try route("fd00:66:0:7::2", "fd00:66:0:1::9") == "Permission denied")
            let rules = try socket.rules(.ipv6)
            #expect(
                rules.map(\.description) == [
                    "0: from all lookup local", "97: from fd00:66:0:1::/64 iif node-t0 prohibit",
                    "98: not from fd12::/16 fwmark 0x10/0xff iif node-t0 unreachable",
                    "99: from all to fd00:66:0:8::/64 prohibit", "5270: from all lookup 52",
                    "32766: from all lookup main",
                ])
            #expect(try socket.rules() == socket.rules(.ipv4) + rules)
            #expect(
                try socket.routes(inTable: Route.mainTable, of: .blackhole, .ipv6).map {
                    "\($0.kind == .blackhole) \($0.destination)"
                } == ["true fd00:66:0:9::/64"])
            #expect(try socket.routes(inTable: 52, of: .unicast, .ipv6).count == 1)
            #expect(try socket.routes(inTable: 99, of: .unicast, .ipv6).isEmpty)
            for rule in rules where (97...99).contains(rule.priority) { try socket.deleteRule(rule) }
            #expect(try socket.rules(.ipv6).count == 3)
        }
    }

    @Test(.timeLimit(.minutes(1))) func aReaderThatIsLateIsToldThatChangesWereLost() async throws {
        let namespace = try await namespace()
        let monitor = try await namespace.run {
            let monitor = try RouteMonitor()
            let socket = try RouteSocket()
            let index = try #require(try socket.link(named: "node-t0")).index
            for _ in 0..<RouteMonitor.queueLimit {
                let route = Route(to: .v4(IPv4Prefix("10.66.0.0/16")!), interfaceIndex: index, scope: .link)
                try socket.replaceRoute(route)
                try socket.deleteRoute(route)
            }
            return monitor
        }
        // The queue is full of 256 of 512 changes: one more must come out, once the listener has seen all. Nothing of
        // them is left in the kernel then; a reader that began before could keep up with a listener that is slow.
        try await namespace.run {
            func waiting() throws -> Int {
                try String(contentsOfFile: "/proc/thread-self/net/netlink", encoding: .utf8)
                    .split(separator: "\n").dropFirst()
                    .reduce(0) { $0 + (Int($1.split(separator: " ")[4]) ?? 0) }
            }
            while try waiting() > 0 { usleep(1_000) }
        }
        var sawUnknown = false
        for await change in monitor.changes where change == .unknown {
            sawUnknown = true
            break
        }
        #expect(sawUnknown)
    }

    @Test(.timeLimit(.minutes(1))) func aMonitorThatGoesEndsItsStream() async throws {
        let namespace = try await namespace()
        var monitor: RouteMonitor? = try await namespace.run { try RouteMonitor() }
        let changes = try #require(monitor).changes
        monitor = nil
        for await _ in changes {}
    }
}
