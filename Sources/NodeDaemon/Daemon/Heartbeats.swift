import Glibc
import Health
import Host
import Synchronization

/// When each of the loops that keep the node last showed that it goes round. Loops that wait for events are woken by
/// a timer to show it, so that a silent one is a stalled one.
final class Heartbeats: Sendable {
    /// A loop that is watched. The raw values are the names that problems and log lines have.
    enum Loop: String, CaseIterable, Sendable {
        /// Renews the lease and follows the store.
        case leaseKeeper = "lease keeper"
        /// Talks with the kernel: routes, rules, the underlay.
        case controlThread = "control thread"
        /// Bring the node to what was said last.
        case passes
        /// Move packets.
        case packetWorkers = "packet workers"

        /// The beginning of a sentence about it.
        var words: String {
            switch self {
            case .leaseKeeper, .controlThread: "twilld's \(rawValue) has"
            case .passes, .packetWorkers: "twilld's \(rawValue) have"
            }
        }

        /// How bad it is when it stands still.
        var effect: Problem.Effect { self == .packetWorkers ? .cutOff : .degraded }

        /// What is not done meanwhile.
        var consequence: String {
            switch self {
            case .leaseKeeper: "the lease is not renewed and no other node is noticed"
            case .controlThread: "routes and rules are not looked after"
            case .passes: "changes are not taken over"
            case .packetWorkers: "no packets pass"
            }
        }
    }

    /// How old a stamp may be. Each loop shows itself every five seconds; the longest that one waits for on purpose
    /// is a child process that does not end, 15 s, and the tunnel device's name, 10 s.
    static let limit = Duration.seconds(30)
    /// How often each loop is asked to show itself.
    static let interval = Duration.seconds(5)

    private let now: @Sendable () -> SuspendingClock.Instant
    private let stamps = Mutex<[Loop: SuspendingClock.Instant]>([:])

    /// - Parameter now: a clock that stands still while the machine sleeps, which stalls nothing.
    init(now: @escaping @Sendable () -> SuspendingClock.Instant = { SuspendingClock.now }) { self.now = now }

    /// The loop goes round; it is watched from the first time on.
    func stamp(_ loop: Loop) {
        let now = now()
        stamps.withLock { $0[loop] = now }
    }

    /// The loop has ended, as it was meant to.
    func forget(_ loop: Loop) { stamps.withLock { $0[loop] = nil } }

    /// Nothing is watched any more: the daemon ends.
    func forgetAll() { stamps.withLock { $0 = [:] } }

    /// The loops that are watched, each with how long it has been silent where that is too long.
    var silences: [(loop: Loop, tooLong: Duration?)] {
        let now = now()
        let stamps = stamps.withLock { $0 }
        return Loop.allCases.compactMap { loop in
            stamps[loop].map { (loop, now - $0 > Heartbeats.limit ? now - $0 : nil) }
        }
    }
}

/// Watches over the daemon's loops and its log from a thread that waits for none of them, and feeds systemd's
/// watchdog for as long as all of the loops go round.
final class Watch: Sendable {
    private let heartbeats: Heartbeats
    private let health: NodeHealth
    private let log: LogWriter
    private let notification: ServiceNotification
    private let hasEnded = Atomic<Bool>(false)

    init(heartbeats: Heartbeats, health: NodeHealth, log: LogWriter, notification: ServiceNotification) {
        self.heartbeats = heartbeats
        self.health = health
        self.log = log
        self.notification = notification
    }

    /// Begins to watch.
    func start() {
        let interval = min(notification.watchdogInterval ?? .seconds(1), .seconds(1))
        let microseconds = UInt32(clamping: interval.components.attoseconds / 1_000_000_000_000)
        // Where the kernel refuses the thread nothing is watched, and systemd starts the daemon anew.
        try? SystemThread.start("watch") { [self] in
            while !hasEnded.load(ordering: .relaxed) {
                look()
                if microseconds == 0 { sleep(1) } else { usleep(microseconds) }
            }
        }
    }

    /// Watches no more.
    func end() { hasEnded.store(true, ordering: .relaxed) }

    /// Looks once: says what is stalled, by name, and feeds the watchdog where nothing is.
    func look() {
        var isStalled = false
        for (loop, tooLong) in heartbeats.silences {
            health.set(
                Component(.loop, loop.rawValue),
                tooLong.map { silence in
                    Problem(
                        loop.effect,
                        "\(loop.words) not answered for \(silence.components.seconds) s: "
                            + loop.consequence,
                        remedy:
                            "systemd restarts twilld where WatchdogSec= is set; else restart it, and "
                            + "report it with "
                            + "the log")
                })
            if tooLong != nil { isStalled = true }
        }
        health.set(Component(.log), log.problem(now: .now))
        if !isStalled { notification.watchdog() }
    }
}
