import Addresses
import FoundationEssentials
import Fuzz
import Glibc
import Kit
import NetworkNamespaces
import Telemetry
import Testing

/// A flood of datagrams at a live daemon: nothing of what is legitimate beside it is lost, and memory does not grow.
/// `tools/test-flood --seconds 60` makes it longer.
@Suite(.serialized, .enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct FloodTests {
    private static func setting(_ name: String, _ usual: Int) -> Int {
        getenv(name).flatMap { Int(String(cString: $0)) } ?? usual
    }

    @Test(arguments: ["peer", "stranger"])
    func pingBesideAFloodLosesNothing(sender: String) async throws {
        let seconds = FloodTests.setting("TWILL_FLOOD_SECONDS", 5)
        let rate = FloodTests.setting("TWILL_FLOOD_RATE", 20_000)
        let lab = try await Lab(nodes: 3, isAlone: true)
        var daemons: [LabDaemon] = []
        for number in 1...2 { daemons.append(try await lab[number].start()) }
        for daemon in daemons { try await daemon.wait(for: "its peer") { $0.isReady && $0.peers.count == 1 } }
        var pods: [LabPod] = []
        for (number, daemon) in zip(1..., daemons) {
            pods.append(try await lab[number].addPod(in: try #require(daemon.status?.lease?.subnet)))
        }
        let quiet = try await pods[1].echoes(to: pods[0].address, count: 100, interval: 0.01)
        let socket = try await LabSocket.sending(
            to: try #require(IPv4Address(lab[1].address)), port: 8285, from: lab[sender == "peer" ? 2 : 3])
        // Whatever a peer may send that is for no pod, and what a stranger may send, which is nothing.
        let datagrams = malformedPackets(
            from: try #require(IPv4Address(pods[1].address)), to: IPv4Address(bits: 0x0A01_0101)
        ).map(\.bytes)
        let before = try #require(daemons[0].status)
        let memory = try residentKiB(daemons[0])

        async let sent = socket.flood(datagrams, seconds: Double(seconds), rate: rate)
        let beside = try await pods[1].echoes(to: pods[0].address, count: seconds * 45, interval: 0.02)
        let count = await sent
        let after = try await daemons[0].wait(for: "all of them counted") { $0.uncounted == 0 }
        let dropped = try await kernelDrops(lab[1])
        let seen = after.count(of: .datagramsReceived) - before.count(of: .datagramsReceived)
        let grown = try residentKiB(daemons[0]) - memory
        print(
            """
            flood from a \(sender): \(count) datagrams in \(seconds) s, \(seen) seen by the daemon, \(dropped) dropped by its socket \
            (\(after.count(of: .dropInboundSocketFull)) by its own count)
              ping beside it: \(beside.answered) of \(beside.sent) answered, 99th percentile \(beside.p99Milliseconds) ms \
            (before: \(quiet.p99Milliseconds) ms); memory \(memory) KiB, grown by \(grown) KiB
            """)
        #expect(beside.answered == beside.sent)
        #expect(seen + dropped >= count, "a datagram that neither the daemon nor its socket counts")
        // What a status answer takes for a moment, and no more with the length of the flood.
        #expect(grown < 8 << 10)
        #expect(daemons[0].isRunning && daemons[0].status?.isReady == true)
    }

    private func residentKiB(_ daemon: LabDaemon) throws -> Int {
        let text = try String(contentsOfFile: "/proc/\(daemon.processIdentifier)/status", encoding: .utf8)
        let line = text.split(separator: "\n").first { $0.hasPrefix("VmRSS:") }
        return try #require(line?.split(separator: " ").dropFirst().first.flatMap { Int($0) })
    }

    /// What the kernel dropped at the sockets of the port: the last column of /proc/net/udp.
    private func kernelDrops(_ node: LabNode) async throws -> Int {
        try await node.run(
            "awk '$2 ~ /:205D$/ { sum += $NF } END { print sum + 0 }' /proc/thread-self/net/udp"
        )
        .split(separator: "\n").first.flatMap { Int($0) } ?? 0
    }
}
