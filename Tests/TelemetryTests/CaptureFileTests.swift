import Addresses
import Counters
import FoundationEssentials
import Glibc
import Testing

@testable import Telemetry

@Suite("Packets for people, and for tcpdump")
struct CaptureFileTests {
    private static func ipv4(_ protocolNumber: UInt8, fragment: UInt16 = 0, _ payload: [UInt8]) -> [UInt8] {
        let length = UInt8(20 + payload.count)
        var packet: [UInt8] = [0x45, 0, 0, length, 0, 0, UInt8(fragment >> 8), UInt8(fragment & 0xFF)]
        packet += [63, protocolNumber, 0, 0, 10, 66, 2, 7, 10, 66, 3, 9]
        packet += payload
        return packet
    }

    private static let udp: [UInt8] = ipv4(17, [0x01, 0xBB, 0xC7, 0x38, 0, 9, 0, 0, 42])
    /// `sockaddr_in` of 192.168.0.2:8285.
    private static let name: [UInt8] = {
        var name = [UInt8](repeating: 0, count: 32)
        name.replaceSubrange(0..<8, with: [2, 0, 0x20, 0x5D, 192, 168, 0, 2])
        return name
    }()

    private static func copy(
        _ point: CapturePoint, reason: Counter? = nil, name: [UInt8] = [UInt8](repeating: 0, count: 32)
    ) -> PacketCopy {
        PacketCopy(
            nanoseconds: 5_000_000_123, point: point, reason: reason, length: udp.count, bytes: udp,
            socketName: name)
    }

    private static let noBytes = [UInt8](repeating: 0, count: 14)
    private static let ipv6: [UInt8] = {
        var packet: [UInt8] = [0x60, 0, 0, 0, 0, 4, 58, 64, 0xFD]
        packet += noBytes
        packet += [1, 0xFD]
        packet += noBytes
        packet += [2, 128, 0]
        return packet
    }()
    private static let heads: [([UInt8], String)] = [
        (udp, "10.66.2.7:443 > 10.66.3.9:51000 UDP"),
        (ipv4(6, [0, 80, 0, 81]), "10.66.2.7:80 > 10.66.3.9:81 TCP"),
        (ipv4(1, [8, 0]), "10.66.2.7 > 10.66.3.9 ICMP"),
        (ipv4(17, fragment: 0x00B9, [0, 80, 0, 81]), "10.66.2.7 > 10.66.3.9 UDP"),
        (ipv4(253, []), "10.66.2.7 > 10.66.3.9 protocol 253"),
        (ipv6, "fd00::1 > fd00::2 ICMPv6"),
        ([], "no IP packet"), ([0x45, 0], "no IP packet"), ([0x10] + noBytes + noBytes, "no IP packet"),
    ]

    @Test("addresses, ports and the transport of a head", arguments: heads)
    func words(_ head: [UInt8], _ text: String) { #expect(PacketWords(head).text == text) }

    @Test("a line for a terminal") func line() {
        #expect(
            Self.copy(.droppedInbound, reason: .dropInboundSource, name: Self.name).line(
                time: "12:00:00.000000")
                == "12:00:00.000000  dropped ← 192.168.0.2:8285  10.66.2.7:443 > 10.66.3.9:51000 UDP, 29 bytes, drop_inbound_source"
        )
        #expect(
            Self.copy(.tunnelRead).line(time: "t")
                == "t  pod →  10.66.2.7:443 > 10.66.3.9:51000 UDP, 29 bytes")
    }

    /// The blocks' lengths stand at both ends, and add up.
    @Test("a file of whole blocks") func blocks() {
        let file = CaptureFile(
            interface: "flannel0", endpoint: Endpoint(address: IPv4Address("192.168.0.1")!, port: 8285),
            clockOffsetNanoseconds: 1_000)
        var bytes = file.head(application: "twilld 1")
        for point in CapturePoint.allCases {
            bytes += file.block(
                Self.copy(point, reason: point.isDrop ? .dropInboundSource : nil, name: Self.name))
        }
        bytes += file.statistics(missed: 7, nanoseconds: 9)
        var types: [UInt32] = []
        var offset = 0
        func word(_ offset: Int) -> UInt32 {
            bytes[offset..<offset + 4].reversed().reduce(UInt32(0)) { sum, byte in sum << 8 | UInt32(byte) }
        }
        while offset < bytes.count {
            let length = Int(word(offset + 4))
            #expect(length % 4 == 0 && length >= 12 && offset + length <= bytes.count)
            #expect(word(offset + length - 4) == UInt32(length))
            types.append(word(offset))
            offset += length
        }
        #expect(types == [0x0A0D_0D0A, 1, 6, 6, 6, 6, 6, 6, 5])
    }

    /// What it was made for.
    @Test("tcpdump reads it") func tcpdump() throws {
        let file = CaptureFile(
            interface: "flannel0", endpoint: Endpoint(address: IPv4Address("192.168.0.1")!, port: 8285),
            clockOffsetNanoseconds: 0)
        var bytes = file.head(application: "twilld 1")
        bytes += file.block(Self.copy(.tunnelRead)) + file.block(Self.copy(.underlaySent, name: Self.name))
        bytes += file.block(Self.copy(.droppedInbound, reason: .dropInboundSource, name: Self.name))
        let path = "/tmp/twill-test-capture-\(getpid()).pcapng"
        try Data(bytes).write(to: URL(filePath: path))
        defer { unlink(path) }
        let program = try #require(popen("TZ=UTC tcpdump -Z root -nr \(path) 2>/dev/null", "r"))
        var lines: [String] = []
        var buffer = [CChar](repeating: 0, count: 4_096)
        while fgets(&buffer, Int32(buffer.count), program) != nil {
            lines.append(
                String(
                    decoding: buffer.prefix { $0 != 0 && $0 != 10 }.map { UInt8(bitPattern: $0) },
                    as: UTF8.self))
        }
        #expect(pclose(program) == 0)
        #expect(
            lines == [
                "00:00:05.000000 IP 10.66.2.7.443 > 10.66.3.9.51000: UDP, length 1",
                "00:00:05.000000 IP 192.168.0.1.8285 > 192.168.0.2.8285: UDP, length 29",
                "00:00:05.000000 IP 192.168.0.2.8285 > 192.168.0.1.8285: UDP, length 29",
            ])
    }

    @Test("a trace of the time between two statuses") func trace() {
        func status(_ counts: [UInt64], sum: Double, uptime: Double) -> NodeStatus {
            var status = NodeStatus(
                version: "1", processIdentifier: 1, uptimeSeconds: uptime, isReady: true, state: "",
                store: .init(name: "", isConnected: true, reconnects: 0))
            status.histograms = [
                NodeStatus.Histogram(
                    name: "outbound_wait_time_seconds", meaning: "m", bounds: [1e-6, 2e-6, 4e-6],
                    counts: counts, sum: sum)
            ]
            return status
        }
        let trace = TimeTrace(
            from: status([10, 0, 0, 0], sum: 5e-6, uptime: 10),
            to: status([15, 90, 4, 1], sum: 205e-6, uptime: 15))
        #expect(trace.seconds == 5 && trace.stages.count == 1)
        #expect(
            trace.stages[0].samples == 100 && trace.stages[0].median == 2e-6
                && trace.stages[0].percentile99 == 4e-6)
        #expect(
            trace.text.contains(
                "out  read from TUN → forwarded        100       2.00 µs    ≤ 2.00 µs  ≤ 4.00 µs\n"))
        // Another data plane in between.
        let anew = TimeTrace(
            from: status([10, 0, 0, 0], sum: 5e-6, uptime: 10),
            to: status([1, 0, 0, 3], sum: 1e-6, uptime: 15))
        #expect(anew.stages[0].samples == 4 && anew.text.contains("> 16 ms"))
    }
}
