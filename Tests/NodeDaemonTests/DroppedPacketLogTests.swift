import Counters
import Testing

@testable import NodeDaemon

@Suite struct DroppedPacketLogTests {
    private static func totals(_ counts: [Counter: UInt64]) -> CounterTotals {
        let block = CounterBlock.allocate()
        defer { block.deallocate() }
        for (counter, count) in counts { block.add(counter, Int(count)) }
        return CounterTotals([block])
    }

    /// 10.66.2.7:443 > 10.66.3.9:51000, UDP.
    private static func packet(_ reason: Counter) -> DroppedPacket {
        let head: [UInt8] = [
            0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0, 10, 66, 2, 7, 10, 66, 3, 9, 0x01, 0xBB, 0xC7, 0x38,
        ]
        return DroppedPacket(reason: reason, nanoseconds: 1, length: 40, head: head, socketName: [])
    }

    @Test func theFirstAndThenOneInTenSeconds() {
        var log = DroppedPacketLog()
        let start = ContinuousClock.now
        var lines: [[String: String]] = []
        for second in 0..<60 {
            let counters = Self.totals([
                .dropOutboundNoRoute: UInt64(second * 1000 + 1), .packetsSent: 5,
                .dropInboundUnknownPeer: second < 30 ? 0 : 1,
            ])
            lines += log.lines(counters, at: start + .seconds(second), last: Self.packet)
        }
        #expect(lines.count { $0["reason"] == "drop_outbound_no_route" } == 6)
        #expect(lines.count { $0["reason"] == "drop_inbound_unknown_peer" } == 1)
        #expect(
            lines.first == [
                "reason": "drop_outbound_no_route", "all": "1", "length": "40",
                "packet": "10.66.2.7:443 > 10.66.3.9:51000 UDP",
            ])
    }

    @Test func aDropOfWhichNothingWasKeptIsToldAllTheSame() {
        var log = DroppedPacketLog()
        let lines = log.lines(Self.totals([.dropInboundSocketFull: 7]), at: .now, last: { _ in nil })
        #expect(lines == [["reason": "drop_inbound_socket_full", "all": "7"]])
    }
}
