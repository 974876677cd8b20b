import Addresses
import Counters
import Fuzz
import Kit
import NetworkNamespaces
import Telemetry
import Testing

extension NodeStatus {
    /// Datagrams that came in, less those that went to a pod and those that were dropped: 0, or something is not counted. What
    /// the socket dropped never came in.
    var uncounted: Int {
        let drops = drops.filter {
            $0.key.name.hasPrefix("drop_inbound_") && $0.key != .dropInboundSocketFull
        }
        return count(of: .datagramsReceived) - count(of: .packetsDelivered) - count(of: .hellosReceived)
            - drops.values.reduce(0) { $0 + Int(clamping: $1) }
    }

    func count(of counter: Counter) -> Int { Int(clamping: value(of: counter)) }
}

/// What a peer or a stranger may put into datagrams, at a live daemon, beside a ping between two pods.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct MalformedPacketTests {
    @Test(arguments: ["peer", "stranger"])
    func everyOddPacketIsCountedAndNothingElseIsLost(sender: String) async throws {
        let lab = try await Lab(nodes: 3)
        var daemons: [LabDaemon] = []
        for number in 1...2 { daemons.append(try await lab[number].start()) }
        for daemon in daemons { try await daemon.wait(for: "its peer") { $0.isReady && $0.peers.count == 1 } }
        var pods: [LabPod] = []
        for (number, daemon) in zip(1..., daemons) {
            pods.append(try await lab[number].addPod(in: try #require(daemon.status?.lease?.subnet)))
        }
        let (pod, peerPod) = (
            try #require(IPv4Address(pods[0].address)), try #require(IPv4Address(pods[1].address))
        )
        let packets = malformedPackets(from: peerPod, to: pod)
        #expect(packets.count >= 226)
        let underlay = try #require(IPv4Address(lab[1].address))
        let socket = try await LabSocket.sending(
            to: underlay, port: 8285, from: lab[sender == "peer" ? 2 : 3])
        let before = try #require(daemons[0].status)

        async let echoes = pods[1].echoes(to: pods[0].address, count: 100, interval: 0.02)
        for packet in packets {
            socket.send(packet.bytes)
            try await Task.sleep(for: .milliseconds(1))
        }
        #expect(try await echoes.answered == 100)

        let after = try await daemons[0].wait(for: "all of them counted") {
            // An empty datagram counts as one.
            $0.uncounted == 0
                && $0.count(of: .datagramsReceived) - before.count(of: .datagramsReceived) >= packets.count
                    + 100
        }
        let unknown = after.count(of: .dropInboundUnknownPeer) - before.count(of: .dropInboundUnknownPeer)
        #expect(unknown == (sender == "peer" ? 0 : packets.count))
        #expect(daemons[0].isRunning && daemons[1].isRunning)
        #expect(daemons[0].status?.isReady == true)
    }
}
