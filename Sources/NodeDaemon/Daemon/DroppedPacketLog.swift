import Counters
import Telemetry

/// Which of the packets that were dropped the log tells of: of each reason the first, and one in ten seconds while
/// there are more.
struct DroppedPacketLog {
    /// How long a reason is not told of again.
    static let interval = Duration.seconds(10)

    private struct Told {
        var at: ContinuousClock.Instant
        var count: UInt64
    }

    private var told: [Counter: Told] = [:]

    /// The fields of the lines that are due.
    ///
    /// - Parameters:
    ///   - counters: what was counted until now.
    ///   - last: the last packet that was dropped for a reason, as far as it was kept.
    mutating func lines(
        _ counters: CounterTotals, at now: ContinuousClock.Instant, last: (Counter) -> DroppedPacket?
    ) -> [[String: String]] {
        var lines: [[String: String]] = []
        for reason in Counter.allCases where reason.isDrop && counters[reason] > 0 {
            let count = counters[reason]
            if let before = told[reason] {
                // Another data plane counts from zero.
                guard count != before.count, before.at + DroppedPacketLog.interval <= now else { continue }
            }
            var fields = ["reason": reason.name, "all": "\(count)"]
            if let packet = last(reason) {
                let words = NodeStatus.Offender(packet, nowNanoseconds: packet.nanoseconds)
                fields["packet"] = words.packet
                fields["length"] = "\(words.length)"
                if let peer = words.peer { fields["peer"] = peer }
            }
            told[reason] = Told(at: now, count: count)
            lines.append(fields)
        }
        return lines
    }
}
