import Addresses
import Counters
import Fuzz
import Kit
import NetworkNamespaces
import Offload
import Telemetry
import Testing

/// The same packets through the packet threads alone, and with the kernel path on: what differs is the way, and nothing
/// else.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct KernelPathDifferenceTests {
    /// Which family the packets are of, and the nodes' addresses; and who has which.
    struct Addresses: Sendable, CustomTestStringConvertible {
        let inner: AddressFamily
        let families: Lab.Families

        static let all = [
            Addresses(inner: .ipv4, families: .ipv4), Addresses(inner: .ipv6, families: .dual),
            Addresses(inner: .ipv6, families: .ipv6),
        ]

        var testDescription: String { "\(inner), nodes with \(families)" }

        /// An address in the subnet of a node.
        func pod(_ node: Int, host: Int = 2) -> IPAddress {
            IPAddress(inner == .ipv4 ? "100.96.1\(node).\(host)" : "fd00:96:0:1\(node)::\(host)")!
        }

        /// One in the network that is nobody's.
        var nobodys: IPAddress { IPAddress(inner == .ipv4 ? "100.96.77.2" : "fd00:96:0:77::2")! }
        /// One elsewhere.
        var foreign: IPAddress { IPAddress(inner == .ipv4 ? "8.8.8.8" : "2001:db8::8")! }
        /// The first node's own.
        var underlay: IPAddress { IPAddress(inner == .ipv4 ? "172.20.32.101" : "fd20:32::101")! }

        func subnetFile(_ node: Int) -> String {
            (families.hasIPv4 ? "FLANNEL_SUBNET=100.96.1\(node).1/24\n" : "")
                + (families.hasIPv6 ? "FLANNEL_IPV6_SUBNET=fd00:96:0:1\(node)::1/64\n" : "")
        }

        func lease(_ node: Int) -> String {
            [
                families.hasIPv4 ? "100.96.1\(node).0/24" : nil,
                families.hasIPv6 ? "fd00:96:0:1\(node)::/64" : nil,
            ]
            .compactMap(\.self).joined(separator: ",")
        }

        /// Packets in each of which one thing is odd.
        func malformed(from source: IPAddress, to destination: IPAddress) -> [[UInt8]] {
            switch (source, destination) {
            case (.v6(let source), .v6(let destination)):
                malformedIPv6Packets(from: source, to: destination).map(\.bytes)
            case (.v4(let source), .v4(let destination)):
                malformedPackets(from: source, to: destination).map(\.bytes)
            default: []
            }
        }
    }

    /// What became of the packets.
    private struct Outcome: Equatable {
        /// What came into the overlay at the receiving node, how often: its length and first bytes.
        var delivered: [[UInt8]: Int] = [:]
        /// What each node dropped, by reason.
        var drops: [[Counter: UInt64]] = []
        /// Errors that nodes answered with.
        var answers: [UInt64] = []
    }

    /// Nodes 1 and 2 with daemons, node 3 a stranger. The nodes' subnets are the same in each world.
    private struct World {
        let lab: Lab
        let addresses: Addresses
        var daemons: [LabDaemon] = []

        init(_ flags: String, _ addresses: Addresses) async throws {
            self.addresses = addresses
            lab = try await Lab(
                nodes: 3, config: Lab.configuration(of: addresses.families), families: addresses.families)
            for number in 1...2 {
                try lab.write("node\(number)/subnet.env", addresses.subnetFile(number))
                // What is merged on the way is not what was sent, packet by packet. And there are no pods: what arrives
                // for them goes no further.
                daemons.append(
                    try await lab[number].start(
                        "--tun-tso4=false --tun-tso6=false --tun-uso=false --path-probe-interval=0 --ip-blackhole-route \(flags)"
                    ))
            }
            for (number, daemon) in zip(1..., daemons) {
                let status = try await daemon.wait(for: "its peer") { $0.isReady && $0.peers.count == 1 }
                #expect(status.lease?.subnet == addresses.lease(number))
            }
        }

        func areAble() async throws {
            for daemon in daemons {
                try await daemon.wait(for: "an able peer") { $0.peers.allSatisfy { $0.kernelPath == true } }
            }
        }
    }

    /// What came in by the tunnel device, with each checksum that was left to a device completed.
    private func arrived(_ capture: PacketCapture) -> [[UInt8]: Int] {
        #expect(capture.missed() == 0)
        return capture.packets().filter { !$0.isOutgoing }.reduce(into: [:]) { arrived, packet in
            var bytes = packet.bytes
            if packet.length == bytes.count, packet.length >= 20 {
                bytes.withUnsafeMutableBytes {
                    _ = UnfinishedChecksum.complete($0.baseAddress!, length: $0.count)
                }
            }
            arrived[[UInt8(packet.length >> 8), UInt8(packet.length & 0xFF)] + bytes, default: 0] += 1
        }
    }

    private func outcome(_ world: World, _ capture: PacketCapture, node: Int, sent: Int) async throws
        -> Outcome
    {
        try await world.daemons[node - 1].wait(for: "everything counted") { $0.uncounted == 0 }
        try await Task.sleep(for: .milliseconds(300))
        var outcome = Outcome(delivered: arrived(capture))
        for daemon in world.daemons {
            let status = try #require(daemon.status)
            // What the kernel counts for the device may be of a packet of its own, when that comes up.
            outcome.drops.append(status.drops.filter { $0.key != .dropOutboundQueueFull })
            outcome.answers.append(
                status.value(of: .unreachablesSent) + status.value(of: .timeExceededsSent))
            #expect(status.isReady)
        }
        return outcome
    }

    private func expectEqual(_ ring: Outcome, _ both: Outcome) {
        #expect(ring.drops == both.drops)
        #expect(ring.answers == both.answers)
        for packet in Set(ring.delivered.keys).union(both.delivered.keys)
        where ring.delivered[packet] != both.delivered[packet] {
            Issue.record(
                "\(packet): \(ring.delivered[packet] ?? 0) by the packet threads, \(both.delivered[packet] ?? 0) with the kernel path"
            )
        }
    }

    /// What comes from the underlay in the kernel path's form, of a peer and of a stranger.
    @Test(arguments: Addresses.all, ["peer", "stranger"])
    func whatComesInIsJudgedAlike(addresses: Addresses, sender: String) async throws {
        let (pod, peerPod) = (addresses.pod(1), addresses.pod(2))
        let packets =
            addresses.malformed(from: peerPod, to: pod)
            + fragmentPackets(from: peerPod, to: pod)
            + fuzzedPackets(700, seed: 5, from: peerPod, to: pod)
            // Spoofed, to somebody else, to the node itself.
            + fuzzedPackets(60, seed: 6, from: addresses.nobodys, to: pod)
            + fuzzedPackets(60, seed: 7, from: peerPod, to: addresses.nobodys)
            + fuzzedPackets(60, seed: 8, from: peerPod, to: addresses.underlay)
            + fuzzedPackets(60, seed: 9, from: pod, to: pod)
        var outcomes: [Outcome] = []
        for flags in ["--kernel-path=off", "--kernel-path=auto"] {
            let world = try await World(flags, addresses)
            let underlay = try #require(IPAddress(world.lab[1].address))
            let before = try #require(world.daemons[0].status)
            if flags.hasSuffix("auto") { try await world.areAble() }
            let socket = try await LabSocket.sending(
                to: underlay, port: 8285, from: world.lab[sender == "peer" ? 2 : 3], hasChecksum: false)
            let capture = try await PacketCapture.start(
                on: world.lab[1], interface: "flannel0", family: addresses.inner)
            for packet in packets {
                socket.send(packet)
                try await Task.sleep(for: .milliseconds(1))
            }
            try await world.daemons[0].wait(for: "all of them") {
                $0.count(of: .datagramsReceived) - before.count(of: .datagramsReceived) >= packets.count
            }
            outcomes.append(try await outcome(world, capture, node: 1, sent: packets.count))
            let byKernel = world.daemons[0].counter(.kernelPathPacketsReceived)
            #expect((byKernel > 100) == (sender == "peer" && flags.hasSuffix("auto")), "\(byKernel)")
        }
        expectEqual(outcomes[0], outcomes[1])
        #expect(outcomes[0].delivered.isEmpty == (sender == "stranger"))
    }

    /// What pods give to the tunnel device, whatever it is.
    @Test(arguments: Addresses.all) func whatGoesOutIsJudgedAlike(addresses: Addresses) async throws {
        let (pod, peerPod) = (addresses.pod(1), addresses.pod(2))
        var packets =
            addresses.malformed(from: pod, to: peerPod).filter { !$0.isEmpty }
            + fragmentPackets(from: pod, to: peerPod)
            + fuzzedPackets(700, seed: 15, from: pod, to: peerPod)
            + fuzzedPackets(40, seed: 16, from: pod, to: addresses.nobodys)
            + fuzzedPackets(60, seed: 17, from: addresses.foreign, to: peerPod)
        // One that does not tell its ports keeps all flows between its addresses with the packet threads for 1 s: were those
        // among the others, the kernel path would take hardly any.
        func tellsItsPorts(_ packet: [UInt8]) -> Bool {
            switch addresses.inner {
            case .ipv4: packet.count >= 24 && packet[0] == 0x45 && packet[6] & 0xBF == 0 && packet[7] == 0
            case .ipv6: packet.count >= 44 && packet[0] >> 4 == 6 && [6, 17].contains(packet[6])
            }
        }
        // A large one (--kernel-path-bytes) keeps its own flow there for as long.
        packets =
            packets.filter { tellsItsPorts($0) && $0.count <= 256 }
            + packets.filter { tellsItsPorts($0) && $0.count > 256 } + packets.filter { !tellsItsPorts($0) }
        var outcomes: [Outcome] = []
        for flags in ["--kernel-path=off", "--kernel-path=auto"] {
            let world = try await World(flags, addresses)
            if flags.hasSuffix("auto") { try await world.areAble() }
            let socket = try await LabSocket.injecting(
                into: "flannel0", of: world.lab[1], family: addresses.inner)
            let capture = try await PacketCapture.start(
                on: world.lab[2], interface: "flannel0", family: addresses.inner)
            for packet in packets {
                socket.send(packet)
                try await Task.sleep(for: .milliseconds(1))
            }
            outcomes.append(try await outcome(world, capture, node: 2, sent: packets.count))
            let byKernel = world.daemons[0].counter(.kernelPathPacketsSent)
            #expect((byKernel > 100) == flags.hasSuffix("auto"), "\(byKernel)")
            // What it would not take in itself, such as a source that is nobody's, it leaves to the packet threads.
            let taken = world.daemons[1].counter(.kernelPathPacketsReceived)
            #expect((taken > 100) == flags.hasSuffix("auto") && taken <= byKernel, "\(taken)")
        }
        expectEqual(outcomes[0], outcomes[1])
        #expect(outcomes[0].delivered.count > 200)
    }
}
