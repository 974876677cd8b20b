// How it works. A packet that found no room (in the socket, in the TUN device's queue, in a worker) was lost for one of
// two reasons: the packet threads had no processor for a while, or more came than they can take. The counters cannot
// tell which; what the machine's processors did meanwhile can. Losses that follow each other within seconds are one
// episode. The last one is kept and shown, however small it was; a problem it is only where much is lost for some time,
// and until nothing was for a minute.

import Counters
import Health
import Telemetry

/// Notices packets that found no room, and says whether the node is starved of processors or flooded.
struct LossWatch {
    /// So long without a loss ends an episode.
    private static let pause = Duration.seconds(5)
    /// How old the processors' times may be that an episode begins with.
    private static let freshness = Duration.seconds(10)
    /// A problem: so many packets, of all that moved meanwhile, over so long.
    private static let alarm = (packets: UInt64(100), share: 0.001, time: Duration.seconds(2))
    /// How long it stays one after the last loss.
    private static let calm = Duration.seconds(60)
    /// From these shares of the time on, a loss is put down to a lack of processors: 20 ms in a second, in which a
    /// queue of thousands fills. Pressure counts alone only where the threads' own waits are not told, as it is the
    /// whole machine's.
    private static let starved = (threads: 0.02, steal: 0.02, pressure: 0.10)

    /// What is lost for want of room.
    static let overflows: [Counter] = [
        .dropInboundSocketFull, .dropOutboundQueueFull, .dropOutboundNoBuffer, .dropOutboundUnderlayFull,
        .dropInboundTunnelFull,
    ]

    /// Losses that followed each other.
    struct Episode {
        fileprivate(set) var began: ContinuousClock.Instant
        fileprivate(set) var last: ContinuousClock.Instant
        fileprivate var times: (before: ProcessorTimes, after: ProcessorTimes)
        /// What was lost, whatever the reason, for each reason.
        fileprivate(set) var drops: [Counter: UInt64] = [:]
        /// Packets that moved meanwhile.
        fileprivate(set) var carried: UInt64 = 0

        /// What of it found no room.
        var overflowed: UInt64 { LossWatch.overflows.reduce(0) { $0 &+ drops[$1, default: 0] } }
    }

    private var seen: (counters: CounterTotals, at: ContinuousClock.Instant)?
    private var times: (value: ProcessorTimes, at: ContinuousClock.Instant)?
    /// The one that goes on, or the last.
    private(set) var episode: Episode?
    private var alarmUntil: ContinuousClock.Instant?

    /// Whether the processors' times are to be read for the look at `now`: each second while something is lost, else
    /// now and then.
    func wantsTimes(_ counters: CounterTotals, at now: ContinuousClock.Instant) -> Bool {
        guard let times, let seen else { return true }
        let isLosing = LossWatch.overflows.contains { counters[$0] > seen.counters[$0] }
        return isLosing || now - times.at >= LossWatch.freshness / 2
    }

    /// Forgets what was counted: another data plane counts from zero.
    mutating func beginAnew() { seen = nil }

    /// Takes what was counted until now.
    ///
    /// - Parameter newTimes: where `wantsTimes` asked for them.
    mutating func look(
        at counters: CounterTotals, _ newTimes: ProcessorTimes?, at now: ContinuousClock.Instant
    ) {
        defer {
            seen = (counters, now)
            if let newTimes { times = (newTimes, now) }
        }
        guard let seen, let newTimes, let times else { return }
        guard LossWatch.overflows.contains(where: { counters[$0] > seen.counters[$0] }) else { return }
        if episode.map({ now - $0.last >= LossWatch.pause }) ?? true {
            episode = Episode(began: times.at, last: now, times: (times.value, newTimes))
        }
        guard var current = episode else { return }
        current.last = now
        current.times.after = newTimes
        for drop in Counter.allCases where drop.isDrop && counters[drop] > seen.counters[drop] {
            current.drops[drop, default: 0] &+= counters[drop] &- seen.counters[drop]
        }
        for moved in [Counter.packetsSent, .packetsDelivered] where counters[moved] > seen.counters[moved] {
            current.carried &+= counters[moved] &- seen.counters[moved]
        }
        episode = current
        let share = Double(current.overflowed) / Double(current.overflowed &+ current.carried)
        if current.overflowed >= LossWatch.alarm.packets, share >= LossWatch.alarm.share,
            now - current.began >= LossWatch.alarm.time
        {
            alarmUntil = now + LossWatch.calm
        }
    }

    /// The last episode as the status has it; nil where nothing found no room.
    func status(at now: ContinuousClock.Instant) -> NodeStatus.Loss? {
        guard let episode else { return nil }
        let shares = LossWatch.shares(of: episode)
        return NodeStatus.Loss(
            verdict: LossWatch.isStarved(shares) ? .starved : .dropped,
            packets: episode.overflowed, secondsAgo: (now - episode.last) / .seconds(1),
            durationSeconds: (episode.last - episode.began) / .seconds(1),
            drops: episode.drops.sorted { $0.key.rawValue < $1.key.rawValue }.map {
                NodeStatus.Loss.Drop(reason: $0.key.name, packets: $0.value)
            },
            threadWaitShare: shares.threads, stealShare: shares.steal, pressureShare: shares.pressure)
    }

    /// What is wrong; nil where nothing is.
    func problem(at now: ContinuousClock.Instant) -> Problem? {
        guard let alarmUntil, now < alarmUntil, let loss = status(at: now) else { return nil }
        let reasons = loss.drops.map { "\($0.reason) \($0.packets)" }.joined(separator: ", ")
        return Problem(
            .degraded, "packets are lost, \(loss.verdict.rawValue): \(loss.evidence); \(reasons)",
            remedy: loss.verdict.remedy)
    }

    private typealias Shares = (threads: Double?, steal: Double?, pressure: Double?)

    private static func shares(of episode: Episode) -> Shares {
        let seconds = (episode.last - episode.began) / .seconds(1)
        guard seconds > 0 else { return (nil, nil, nil) }
        let (before, after) = episode.times
        func difference(_ path: KeyPath<ProcessorTimes, UInt64?>) -> Double? {
            guard let earlier = before[keyPath: path], let later = after[keyPath: path], later >= earlier
            else {
                return nil
            }
            return Double(later &- earlier)
        }
        var steal: Double?
        if let earlier = before.steal, let later = after.steal, later.ofTicks > earlier.ofTicks {
            steal =
                later.ticks >= earlier.ticks
                ? Double(later.ticks &- earlier.ticks) / Double(later.ofTicks &- earlier.ofTicks) : 0
        }
        return (
            difference(\.threadWaitNanoseconds).map { $0 / 1e9 / seconds }, steal,
            difference(\.pressureMicroseconds).map { $0 / 1e6 / seconds }
        )
    }

    private static func isStarved(_ shares: Shares) -> Bool {
        if let steal = shares.steal, steal >= starved.steal { return true }
        if let threads = shares.threads { return threads >= starved.threads }
        return shares.pressure.map { $0 >= starved.pressure } ?? false
    }
}
