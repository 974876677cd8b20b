import Addresses
import FoundationEssentials
import Glibc
import Kit
import KubernetesTesting
import NetworkNamespaces
import Telemetry
import Testing

/// Each backend, on each store and as nodes of a Kubernetes cluster: the same pods, the same questions.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct BackendTests {
    /// Which store, which families, and what the backends' names and sizes are there.
    struct Case: Sendable, CustomTestStringConvertible {
        var type: String
        var store: String
        var families: Lab.Families

        var testDescription: String { "\(type), \(families), \(store)" }

        static let all: [Case] = ["directory", "etcd", "Kubernetes"].flatMap { store in
            let carried = Lab.Families.allCases.flatMap { families in
                ["udp", "vxlan", "host-gw"].map { Case(type: $0, store: store, families: families) }
            }
            // ipip and wireguard are of IPv4 alone.
            let tunnels = ["ipip", "wireguard"].filter { kernelHasDevices($0) }
            return carried
                + (tunnels + ["extension"]).map { Case(type: $0, store: store, families: .ipv4) }
                + [Case(type: "extension", store: store, families: .ipv6)]
        }

        /// Keys of the backend, each after a comma: of an extension host-gw, as flannel's manual has it for an example; without a
        /// shell.
        var members: String {
            guard type == "extension" else { return "" }
            let (ip, way) =
                families.hasIPv4
                ? ("ip", "$SUBNET via $PUBLIC_IP") : ("ip -6", "$IPV6SUBNET via $PUBLIC_IPV6")
            return #","PreStartupCommand":"echo begun","SubnetAddCommand":"\#(ip) route replace \#(way)""#
                + #","SubnetRemoveCommand":"\#(ip) route del \#(way)""#
        }

        /// The device that packets for the first family leave by.
        var interface: String {
            switch type {
            case "udp": "flannel0"
            case "vxlan": families.hasIPv4 ? "flannel.1" : "flannel-v6.1"
            case "ipip": "flannel.ipip"
            case "wireguard": "flannel-wg"
            default: "eth0"
            }
        }

        /// What pods' packets may have on an underlay of 1,500 bytes. udp carries both families over one address; with
        /// vxlan each has its own, and pods, which have one interface, what the narrower takes.
        var podMTU: Int {
            switch type {
            case "udp": families.hasIPv4 ? 1472 : 1452
            case "vxlan": families.hasIPv6 ? 1430 : 1450
            case "ipip": 1480
            case "wireguard": 1420
            default: 1500
            }
        }
    }

    private static func configuration(
        _ type: String, _ members: String = "", families: Lab.Families = .ipv4
    ) -> String {
        let ipv6 = families.hasIPv6 ? #""EnableIPv6":true,"IPv6Network":"fd00:96::/48","# : ""
        let ipv4 = families.hasIPv4 ? #""Network":"100.96.0.0/16","# : #""EnableIPv4":false,"#
        return "{\(ipv4)\(ipv6)\"Backend\":{\"Type\":\"\(type)\"\(members)}}"
    }

    /// Two nodes with a pod each on a store, and the means to change its configuration.
    private final class Network {
        let lab: Lab
        let cluster: ClusterWorld?
        private let etcd: LabEtcd?
        private(set) var daemons: [LabDaemon] = []
        private(set) var pods: [LabPod] = []
        private(set) var subnets: [String] = []

        init(
            _ type: String, _ members: String = "", store: String, families: Lab.Families = .ipv4,
            nodes: Int = 2
        ) async throws {
            let configuration = BackendTests.configuration(type, members, families: families)
            cluster =
                store == "Kubernetes"
                ? try await ClusterWorld(nodes: nodes, configuration: configuration, families: families) {
                    number in
                    (families.hasIPv4 ? ["100.96.\(number).0/24"] : [])
                        + (families.hasIPv6 ? ["fd00:96:0:\(number)::/64"] : [])
                } : nil
            if let cluster {
                lab = cluster.lab
            } else {
                lab = try await Lab(
                    nodes: nodes, config: store == "etcd" ? nil : configuration, families: families)
            }
            etcd = store == "etcd" ? try await lab.startEtcd(config: configuration, families) : nil
            for node in lab.nodes.prefix(2) { daemons.append(try await start(node)) }
            for (node, daemon) in zip(lab.nodes, daemons) {
                let status = try await daemon.wait(for: "ready with its peer", seconds: 60) {
                    $0.isReady && $0.peers.count == 1
                }
                subnets.append(try #require(status.lease?.subnet))
                pods.append(try await node.addPod(in: subnets[subnets.count - 1]))
            }
        }

        func start(_ node: LabNode) async throws -> LabDaemon {
            if let cluster { return try await cluster.start(node.number, "--ip-masq") }
            return try await node.start(
                "--ip-masq" + (etcd.map { " --etcd-endpoints=\($0.endpoint)" } ?? ""),
                environment: "WIREGUARD_KEY_FILE=\(node.directory)/wgkey")
        }

        func restart(_ number: Int) async throws {
            daemons[number - 1].signal(SIGTERM)
            #expect(try await daemons[number - 1].exitStatus() == 0)
            daemons[number - 1] = try await start(lab[number])
        }

        func set(_ configuration: String) async throws {
            if let etcd {
                try await etcd.setNetwork(configuration)
            } else if cluster != nil {
                try lab.write("net-conf.json", configuration)
            } else {
                try lab.write("store/config", configuration)
            }
        }

        /// The values of the leases in the store.
        func leases() async throws -> [String: String] {
            if let etcd {
                let prefix = "\(LabEtcd.prefix)/subnets/"
                return Dictionary(
                    uniqueKeysWithValues: try await etcd.leases().map {
                        (String($0.key.dropFirst(prefix.count)), $0.value)
                    })
            }
            let directory = "\(lab.directory)/store/subnets"
            let keys = try FileManager.default.contentsOfDirectory(atPath: directory).filter {
                $0.first?.isNumber == true
            }
            return Dictionary(
                uniqueKeysWithValues: keys.compactMap { key in
                    lab.read("store/subnets/\(key)").map { (key, $0) }
                })
        }

        /// That pods reach each other by each address that they have.
        func expectReached() async throws {
            for address in pods[1].addresses { try await pods[0].reaches(address) }
        }

        /// Pings at full size and not one byte more; TCP and UDP both ways; and each side sees the other's own address:
        /// all of it by each family.
        func expectWhatPodsNeed(mtu: Int) async throws {
            try await expectReached()
            for (from, to) in [(pods[0], pods[1]), (pods[1], pods[0])] {
                for (source, destination) in zip(from.addresses, to.addresses) {
                    let headers = destination.contains(":") ? 48 : 28
                    #expect(
                        await from.succeeds("ping -c 1 -W 10 -M do -s \(mtu - headers) \(destination)"),
                        "\(mtu) bytes to \(destination)")
                    #expect(
                        await !from.succeeds("ping -c 1 -W 1 -M do -s \(mtu - headers + 1) \(destination)"),
                        "\(mtu + 1) bytes to \(destination)")
                    // Who the server sees is the pod itself: nothing is translated between pods.
                    for kind in [SOCK_STREAM, SOCK_DGRAM] {
                        let seen = try await BackendTests.seen(kind, from: from, to: to, at: destination)
                        #expect(seen == IPAddress(source))
                    }
                }
            }
        }
    }

    /// Sends from one pod to another and back; gives whom the second one saw, nil where one of the two got nothing.
    private static func seen(
        _ kind: __socket_type, from: LabPod, to: LabPod, at address: String
    ) async throws -> IPAddress? {
        let there = Endpoint(address: try #require(IPAddress(address)), port: 7777)
        let family = there.address.v4 == nil ? AF_INET6 : AF_INET
        let server = try await PodSocket(family, kind, in: to)
        let client = try await PodSocket(family, kind, in: from)
        let isBound = there.withSocketName { bind(server.descriptor, $0, $1) } == 0
        try #require(isBound && (kind != SOCK_STREAM || listen(server.descriptor, 1) == 0))
        return try await from.namespace.run {
            guard there.withSocketName({ connect(client.descriptor, $0, $1) }) == 0,
                send(client.descriptor, "x", 1, 0) == 1
            else { return nil }
            var (name, byte) = ((UInt64(0), UInt64(0), UInt64(0), UInt64(0)), UInt8(0))
            var length = socklen_t(MemoryLayout.size(ofValue: name))
            let address = withUnsafeMutableBytes(of: &name) { bytes -> IPAddress? in
                guard let start = bytes.baseAddress else { return nil }
                let socketName = start.assumingMemoryBound(to: sockaddr.self)
                if kind == SOCK_STREAM {
                    let accepted = accept(server.descriptor, socketName, &length)
                    defer { close(accepted) }
                    guard recv(accepted, &byte, 1, 0) == 1, send(accepted, "y", 1, 0) == 1 else { return nil }
                } else {
                    guard recvfrom(server.descriptor, &byte, 1, 0, socketName, &length) == 1,
                        sendto(server.descriptor, "y", 1, 0, socketName, length) == 1
                    else { return nil }
                }
                return IPAddress(socketName: start)
            }
            return recv(client.descriptor, &byte, 1, 0) == 1 ? address : nil
        }
    }

    /// A socket of a pod, which waits five seconds at most.
    private final class PodSocket: Sendable {
        let descriptor: Int32

        init(_ family: Int32, _ kind: __socket_type, in pod: LabPod) async throws {
            descriptor = try await pod.namespace.run { socket(family, Int32(kind.rawValue), 0) }
            var limit = timeval(tv_sec: 5, tv_usec: 0)
            for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
                setsockopt(descriptor, SOL_SOCKET, option, &limit, socklen_t(MemoryLayout<timeval>.size))
            }
        }

        deinit { close(descriptor) }
    }

    @Test(arguments: Case.all)
    func podsHaveWhatTheyNeed(backend: Case) async throws {
        let network = try await Network(
            backend.type, backend.members, store: backend.store, families: backend.families)
        for (node, daemon) in zip(network.lab.nodes, network.daemons) {
            let status = try #require(daemon.status)
            #expect(status.tunnel?.interface == backend.interface)
            #expect(status.tunnel?.backend == backend.type)
            let file = network.lab.read("node\(node.number)/subnet.env") ?? ""
            #expect(file.contains("FLANNEL_MTU=\(backend.podMTU)\n"))
            #expect(file.contains("FLANNEL_SUBNET=") == backend.families.hasIPv4)
            #expect(file.contains("FLANNEL_IPV6_SUBNET=") == backend.families.hasIPv6)
        }
        if network.cluster == nil {
            try await expectLeases(of: network, backend)
        } else {
            try await expectAnnotations(of: network, backend)
        }
        try await network.expectWhatPodsNeed(mtu: backend.podMTU)
        for daemon in network.daemons { #expect(daemon.status?.problems == []) }
        try await expectExamined(network, backend)

        // A restart: the same subnet, the same hardware address; with the kernel's backends packets flow meanwhile.
        let mac = try? await network.lab[2].run("cat /sys/class/net/flannel*/address")
        try await network.restart(2)
        try await network.daemons[1].wait(for: "the same subnet") {
            $0.isReady && $0.lease?.subnet == network.subnets[1] && $0.peers.count == 1
        }
        if backend.type == "vxlan" {
            #expect((try? await network.lab[2].run("cat /sys/class/net/flannel*/address")) == mac)
        }
        try await network.expectReached()

        // Another network is followed by what runs, as far as it admits the subnets.
        try await network.set(
            Self.configuration(
                backend.type, backend.members + #","Anything":1"#, families: backend.families))
        try await network.expectReached()
    }

    /// `twilld ping` tries each way that packets take: IPv6's, too, where it is another one.
    private func expectExamined(_ network: Network, _ backend: Case) async throws {
        let report = try await network.lab[1].run(
            "\(network.lab.binary) ping --status-socket \(network.lab[1].directory)/twilld.sock")
        let lines = report.split(separator: "\n")
        let hasTwoWays =
            backend.families == .dual && !["udp", "ipip", "wireguard"].contains(backend.type)
        #expect(lines.count == (hasTwoWays ? 2 : 1) && lines.allSatisfy { $0.hasPrefix("ok ") }, "\(report)")
        if hasTwoWays {
            #expect(lines.contains { $0.contains("fd20:32::102") }, "\(report)")
            #expect(lines.contains { $0.contains(" at 172.20.32.102") }, "\(report)")
        }
    }

    /// Annotations are flannel's.
    private func expectAnnotations(of network: Network, _ backend: Case) async throws {
        let hasIPv4 = backend.families.hasIPv4
        let hasIPv6 = backend.families.hasIPv6 && (backend.type != "udp" || !hasIPv4)
        for number in 1...2 {
            let record = try await #require(network.cluster).node(number, "the condition") {
                $0.networkUnavailable == "False"
            }
            let annotations = record.annotations
            #expect(annotations.publicIP == (hasIPv4 ? "172.20.32.10\(number)" : nil))
            #expect(annotations.publicIPv6 == (hasIPv6 ? "fd20:32::10\(number)" : nil))
            #expect(annotations.isManaged == "true")
            #expect(annotations.backendType == (backend.type == "udp" ? "" : backend.type))
            let isVXLAN = backend.type == "vxlan"
            #expect(
                (annotations.backendData?.contains(#"{"VNI""#) == true) == (isVXLAN && hasIPv4),
                "\(annotations)")
            #expect(
                (annotations.backendV6Data?.contains(#"{"VNI""#) == true) == (isVXLAN && hasIPv6),
                "\(annotations)")
        }
    }

    /// Keys and values are flannel's.
    private func expectLeases(of network: Network, _ backend: Case) async throws {
        let leases = try await network.leases()
        #expect(leases.count == 2)
        for (key, value) in leases {
            #expect(key.contains("&") == backend.families.hasIPv6)
            #expect(key.hasPrefix("0.0.0.0-0&") == !backend.families.hasIPv4)
            let hasIPv4 = backend.families.hasIPv4
            let hasIPv6 = backend.families.hasIPv6 && (backend.type != "udp" || !hasIPv4)
            #expect(value.contains(#"{"PublicIP":"\#(hasIPv4 ? "172.20.32.10" : "0.0.0.0")"#), "\(value)")
            #expect(value.contains(#""PublicIPv6":"fd20:32::10"#) == hasIPv6, "\(value)")
            #expect(value.contains(#","BackendData":{"VNI""#) == (backend.type == "vxlan" && hasIPv4))
            #expect(value.contains(#","BackendV6Data":{"VNI""#) == (backend.type == "vxlan" && hasIPv6))
        }
    }

    /// One network through all backends, and what each left is gone.
    @Test(arguments: [
        ("directory", Lab.Families.ipv4), ("etcd", .ipv4), ("Kubernetes", .ipv4), ("directory", .ipv6),
        ("directory", .dual), ("etcd", .dual), ("Kubernetes", .dual),
    ])
    func aNetworkBecomesAnotherBackends(store: String, families: Lab.Families) async throws {
        let network = try await Network("udp", store: store, families: families)
        let hasIPv4 = families.hasIPv4
        func vxlan(_ number: Int) -> [String] {
            (families.hasIPv6 ? ["flannel-v6.\(number)"] : []) + (hasIPv4 ? ["flannel.\(number)"] : [])
        }
        let (vxlanMTU, udpMTU) = hasIPv4 ? (1450, 1472) : (1430, 1452)
        let steps: [(type: String, members: String, mtu: Int, devices: [String])] = [
            ("vxlan", "", vxlanMTU, vxlan(1)), ("vxlan", #","VNI":7,"Port":4789"#, vxlanMTU, vxlan(7)),
            ("host-gw", "", 1500, []), ("vxlan", #","DirectRouting":true"#, vxlanMTU, vxlan(1)),
            ("udp", "", udpMTU, ["flannel0"]),
        ]
        // A node writes to its object a few times a minute at most.
        .filter { store != "Kubernetes" || $0.members.isEmpty }
        for step in steps {
            try await network.set(Self.configuration(step.type, step.members, families: families))
            for (index, daemon) in network.daemons.enumerated() {
                try await daemon.wait(for: "\(step)") {
                    $0.isReady && $0.problems.isEmpty && $0.tunnel?.mtu == step.mtu
                        && $0.tunnel?.backend == step.type && $0.peers.count == 1
                        && $0.tunnel?.interface == step.devices.last ?? "eth0"
                        && $0.tunnel?.ipv6?.interface
                            == (families == .dual && step.type != "udp" ? step.devices.first ?? "eth0" : nil)
                        && $0.lease?.subnet == network.subnets[index]
                }
                _ = try await until("no devices but \(step.devices)") {
                    let names = try await network.lab[index + 1].interfaces().map(\.name)
                    return names.filter { $0.hasPrefix("flannel") }.sorted() == step.devices ? true : nil
                }
            }
            try await network.expectReached()
        }
    }

    /// A subnet, its file and the rules; and of the kernel nothing else.
    @Test func allocIsALeaseAndNothingElse() async throws {
        let network = try await Network("alloc", store: "directory")
        for (node, daemon) in zip(network.lab.nodes, network.daemons) {
            let status = try #require(daemon.status)
            #expect(status.tunnel?.backend == "alloc" && status.tunnel?.mtu == 1500 && status.problems == [])
            #expect(try await node.interfaces().map(\.name).filter { $0.hasPrefix("flannel") } == [])
            #expect(try await node.run("ip route show proto 116") == "")
            #expect(
                network.lab.read("node\(node.number)/subnet.env")?.contains("\nFLANNEL_MTU=1500\n") == true)
        }
        // Whoever sees to the packets finds all that he needs in the store.
        for (from, to) in [(1, 2), (2, 1)] {
            try await network.lab[from].run(
                "ip route add \(network.subnets[to - 1]) via \(network.lab[to].address)")
        }
        try await network.expectWhatPodsNeed(mtu: 1500)
    }

    /// What an extension's commands say goes through the lease to the other nodes' commands; a node that goes is one too;
    /// other commands wait for the daemon's next start.
    @Test func anExtensionsCommandsAreThoseOfTheStart() async throws {
        let members = Case(type: "extension", store: "directory", families: .ipv4).members
        let network = try await Network("extension", members, store: "directory")
        let key = network.subnets[1].replacing("/", with: "-")
        #expect(
            network.lab.read("store/subnets/\(key)")?.contains(
                #""BackendType":"extension","BackendData":"begun""#)
                == true)
        let hand = "store/subnets/100.96.253.0-24"
        try network.lab.write(
            hand, #"{"PublicIP":"172.20.32.77","PublicIPv6":null,"BackendType":"extension"}"#)
        _ = try await until("the route of a node that came") {
            try await network.lab[1].run("ip route").contains("100.96.253.0/24 via") ? true : nil
        }
        try FileManager.default.removeItem(atPath: "\(network.lab.directory)/\(hand)")
        _ = try await until("no route of a node that went") {
            try await network.lab[1].run("ip route").contains("100.96.253.0/24") ? nil : true
        }
        // Who can write to a store does not run programs on the nodes by it.
        try await network.set(
            Self.configuration("extension", #","SubnetAddCommand":"touch \#(network.lab.directory)/run""#))
        try await network.daemons[0].wait(for: "other commands, by name") { status in
            status.problems.contains { $0.contains("restart twilld") }
        }
        try await network.pods[0].reaches(network.pods[1].address)
        #expect(network.lab.read("run") == nil)
        try await network.set(Self.configuration("host-gw"))
        for daemon in network.daemons {
            try await daemon.wait(for: "host-gw") { $0.isReady && $0.problems.isEmpty && $0.peers.count == 1 }
        }
        try await network.expectWhatPodsNeed(mtu: 1500)
    }

    /// What is IPv4's alone is not taken for a network with IPv6, and somebody is told.
    @Test(arguments: ["ipip", "wireguard"])
    func aBackendOfIPv4AloneIsRefusedWithIPv6(type: String) async throws {
        let lab = try await Lab(
            nodes: 1, config: Self.configuration(type, families: .dual), families: .dual)
        let daemon = try await lab[1].start(environment: "WIREGUARD_KEY_FILE=\(lab[1].directory)/wgkey")
        try await daemon.wait(for: "the refusal") { status in
            !status.isReady && status.problems.contains { $0.contains("twill's \(type) carries IPv4 alone") }
        }
        try lab.write("store/config", Self.configuration("vxlan", families: .dual))
        try await daemon.wait(for: "ready") { $0.isReady && $0.problems.isEmpty }
        try lab.write("store/config", Self.configuration(type, families: .dual))
        try await daemon.wait(for: "the refusal, and what was") { status in
            status.isReady && status.tunnel?.backend == "vxlan"
                && status.problems.contains { $0.contains("twill's \(type) carries IPv4 alone") }
        }
    }

    /// A daemon that begins where the kernel lacks what the network asks for ends, and says what and what to do; one that runs
    /// goes on and says it.
    @Test(
        .enabled(if: !kernelHasDevices("ipip") && !kernelHasDevices("wireguard")),
        arguments: [("ipip", "IPIP"), ("wireguard", "WireGuard")])
    func whatTheKernelLacksIsNamed(type: String, name: String) async throws {
        let lab = try await Lab(nodes: 1, config: Self.configuration(type))
        let daemon = try await lab[1].start(environment: "WIREGUARD_KEY_FILE=\(lab[1].directory)/wgkey")
        #expect(try await daemon.exitStatus() == 71)
        #expect(daemon.log.contains("this machine's kernel has no \(name)"))
        #expect(daemon.log.contains("modprobe \(type)") && daemon.log.contains("Backend.Type"))

        try lab.write("store/config", Self.configuration("host-gw"))
        let running = try await lab[1].start(environment: "WIREGUARD_KEY_FILE=\(lab[1].directory)/wgkey")
        try await running.wait(for: "ready") { $0.isReady }
        try lab.write("store/config", Self.configuration(type))
        try await running.wait(for: "the problem") { status in
            status.problems.contains { $0.contains("no \(name)") }
        }
        try lab.write("store/config", Self.configuration("host-gw"))
        try await running.wait(for: "no problem") { $0.isReady && $0.problems.isEmpty }
    }

    /// flannel's part played by ip(8) and bridge(8) alone: a device, an entry in each table, a route, a lease.
    @Test func aNodeMadeByHandIsAPeerOfVXLAN() async throws {
        let network = try await Network("vxlan", store: "directory", nodes: 3)
        let hand = network.lab[3]
        let mac = "4e:5f:00:00:00:03"
        var commands = [
            "ip link add flannel.1 address \(mac) type vxlan id 1 dev eth0 local \(hand.address) dstport 8472 nolearning",
            "ip link set flannel.1 up", "ip address add 100.96.253.0/32 dev flannel.1",
            "ip link add pods type bridge", "ip address add 100.96.253.1/24 dev pods", "ip link set pods up",
        ]
        for (node, subnet) in zip(network.lab.nodes, network.subnets) {
            let key = subnet.replacing("/", with: "-")
            let value = try #require(network.lab.read("store/subnets/\(key)"))
            let start = try #require(value.firstRange(of: #""VtepMAC":""#)).upperBound
            let other = value[start...].prefix(17)
            let first = subnet.prefix { $0 != "/" }
            commands += [
                "ip neigh replace \(first) lladdr \(other) dev flannel.1 nud permanent",
                "bridge fdb replace \(other) dev flannel.1 dst \(node.address) self permanent",
                "ip route replace \(subnet) via \(first) dev flannel.1 onlink",
            ]
        }
        try await hand.run(commands.joined(separator: " && "))
        try network.lab.write(
            "store/subnets/100.96.253.0-24",
            #"{"PublicIP":"\#(hand.address)","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"\#(mac)"}}"#
        )
        // Each daemon reads the store at a time of its own.
        for pod in network.pods { try await pod.reaches("100.96.253.1") }
        #expect(
            await hand.succeeds("ping -c 1 -W 10 -I 100.96.253.1 -M do -s 1422 \(network.pods[1].address)"))
        try FileManager.default.removeItem(atPath: "\(network.lab.directory)/store/subnets/100.96.253.0-24")
        _ = try await until("no entry of the node that is gone") {
            let said = try await network.lab[1].run(
                "ip route; ip neigh show dev flannel.1; bridge fdb show dev flannel.1")
            return said.contains("100.96.253") || said.contains(mac) ? nil : true
        }
    }
}
