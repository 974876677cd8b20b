import Counters
import Glibc
import Kit
import NetworkNamespaces
import Testing

/// Traffic of the benchmarks' generator, which is no part of twill: each byte of it is known to the receiver, and
/// what does not arrive the kernel dropped and counted.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct EveryByteTests {
    /// What a socket or a device counts as one may be so many that the kernel had merged.
    private static let mergedAtMost = 128

    /// A node that runs the one-packet forwarder, which knows no offload, is one of the network.
    @Test func aOnePacketForwarderIsAPeer() async throws {
        let nodes = try await NodesOnEtcd(nodes: 3, underlay: .plain, isAlone: true)
        let (node, foreign) = (nodes.lab[1], nodes.lab[3])
        try await nodes.etcd.putLease("100.96.250.0-24", at: foreign.address)
        _ = try await foreign.launch(
            "\(try BenchmarkProgram.baseline.path()) --tun base0 --bind \(foreign.address):8285"
                + " --peer \(nodes.subnets[0])=\(node.address):8285")
        _ = try await until("the forwarder's device") { try await foreign.interface("base0") }
        try await foreign.run(
            "ip address add 100.96.250.0/32 dev base0 && ip link set base0 mtu 1472 txqueuelen 10000 up"
                + " && ip route add 100.96.0.0/16 dev base0")
        try nodes.lab.write("node3/subnet.env", "FLANNEL_MTU=1472\n")
        let pod = try await foreign.addPod(in: "100.96.250.0/24")
        try await foreign.run("ethtool -K pod2 gro on")
        try await pod.run("ethtool -K eth0 gro on")
        try await nodes.pods[0].reaches(pod.address)

        let before = [
            try await CheckedTraffic.drops(from: foreign, to: node),
            try await CheckedTraffic.drops(from: node, to: foreign),
        ]
        let traffic = try await CheckedTraffic(
            between: [
                .init(host: nodes.pods[0], address: nodes.pods[0].address),
                .init(host: pod, address: pod.address),
            ], seed: 41, "--rate 1000")
        let after = [
            try await CheckedTraffic.drops(from: foreign, to: node),
            try await CheckedTraffic.drops(from: node, to: foreign),
        ]
        #expect(traffic.received.allSatisfy { $0.datagrams > 1000 && $0.streamBytes > 100_000 })
        // The forwarder's socket has the buffer that flannel leaves it, which bursts overflow.
        #expect(traffic.lost[0] <= (after[0] - before[0]) * Self.mergedAtMost)
        #expect(traffic.lost[1] <= after[1] - before[1])
    }

    /// The data plane alone, as twilld sets up no inner IPv6 yet: in super-packets both ways.
    @Test func innerIPv6Crosses() async throws {
        let lab = try await Lab(isAlone: true)
        var forwarders: [LabProcess] = []
        for (node, other) in [(lab[1], lab[2]), (lab[2], lab[1])] {
            forwarders.append(
                try await node.launch(
                    "\(try BenchmarkProgram.dataPlane.path()) --tun six0 --bind \(node.address):8666 --peers 1"
                        + " --local 100.66.\(node.number).0/24 --first 100.66.\(other.number).0/24"
                        + " --local-ipv6 fd66:\(node.number)::/64 --first-ipv6 fd66:\(other.number)::/64"
                        + " --endpoint \(other.address):8666"))
            _ = try await until("the device") { try await node.interface("six0") }
            try await node.run(
                "ip link set six0 mtu 1472 txqueuelen 10000 up && ip -6 address add fd66:\(node.number)::1/64 dev six0 nodad"
                    + " && ip -6 route add fd66::/16 dev six0")
        }
        _ = try await until("an answer over IPv6") {
            await lab[1].succeeds("ping -6 -c 1 -W 1 fd66:2::1") ? true : nil
        }
        let before = [
            try await CheckedTraffic.drops(from: lab[2], to: lab[1]),
            try await CheckedTraffic.drops(from: lab[1], to: lab[2]),
        ]
        let traffic = try await CheckedTraffic(
            between: lab.nodes.map { .init(host: $0, address: "[fd66:\($0.number)::1]") }, seed: 46,
            "--largest 1424 --rate 3000")
        let after = [
            try await CheckedTraffic.drops(from: lab[2], to: lab[1]),
            try await CheckedTraffic.drops(from: lab[1], to: lab[2]),
        ]
        #expect(traffic.received.allSatisfy { $0.datagrams > 1000 && $0.streamBytes > 100_000 })
        for (lost, (after, before)) in zip(traffic.lost, zip(after, before)) {
            #expect(lost <= (after - before) * Self.mergedAtMost)
        }
        for forwarder in forwarders {
            forwarder.signal(SIGUSR1)
            let counters = try await until("its counters") {
                let text = forwarder.errors
                return text.contains("\(Counter.dropInboundError.name)=") ? text : nil
            }
            for counter in [Counter.superPacketsRead, .superPacketsWritten] {
                let line = counters.split(separator: "\n").last { $0.hasPrefix("\(counter.name)=") }
                let count = line.flatMap { Int($0.drop { $0 != "=" }.dropFirst()) }
                #expect(count ?? 0 > 100, "\(counter.name)")
            }
        }
    }

    /// What is delivered of small packets as the offered load rises. Overloaded, a node may deliver no less than
    /// under less load (livelock); what these few processors deliver swings, so only a collapse is a failure, and
    /// each rate has three tries.
    @Test func aRisingFloodIsNoCollapse() async throws {
        struct Outcome: Decodable {
            let received: Int
            let seconds: Double
        }
        let nodes = try await NodesOnEtcd(underlay: .plain, isAlone: true)
        let program = try BenchmarkProgram.traffic.path()
        let sink = nodes.pods[1].address + ":7001"
        _ = try await nodes.pods[1].launch("\(program) receive --bind \(sink)")
        try await nodes.pods[1].listens(on: 7001, tcp: false)
        var best = 0.0
        for rate in [25_000, 50_000, 100_000, 200_000, 400_000, 0] {
            var delivered = 0.0
            for _ in 0..<3 where delivered == 0 || delivered * 2 <= best {
                let outcome: Outcome = try await nodes.pods[0].launch(
                    "\(program) send --to \(sink) --rate \(rate) --seconds 1"
                ).result()
                delivered = max(delivered, Double(outcome.received) / outcome.seconds)
            }
            #expect(delivered * 2 > best, "\(delivered) a second at \(rate), after \(best) at less")
            best = max(best, delivered)
        }
        for daemon in nodes.daemons { #expect(daemon.malformedDrops == [:]) }
        try await nodes.podsReachEachOther()
    }
}
