import Glibc
import Health
import Kit
import Synchronization
import Testing

@testable import NodeDaemon

/// A clock that moves when it is told to.
private final class TestClock: Sendable {
    private let offset = Mutex(Duration.zero)
    private let start = SuspendingClock.now

    var now: SuspendingClock.Instant { start + offset.withLock { $0 } }
    func advance(_ seconds: Int) { offset.withLock { $0 += .seconds(seconds) } }
}

@Suite struct HeartbeatTests {
    private let clock = TestClock()

    @Test(arguments: Heartbeats.Loop.allCases)
    func aSilentLoopIsNamedAndFeedsNoWatchdog(stalled: Heartbeats.Loop) {
        let name = "@twill-test-watch-\(getpid())-\(stalled.rawValue.replacing(" ", with: "-"))"
        let socket = NotifySocket(name)
        let health = NodeHealth()
        let clock = clock
        let heartbeats = Heartbeats(now: { clock.now })
        let watch = Watch(
            heartbeats: heartbeats, health: health, log: LogWriter(descriptor: STDERR_FILENO),
            notification: ServiceNotification(environment: ["NOTIFY_SOCKET": name]))
        for loop in Heartbeats.Loop.allCases { heartbeats.stamp(loop) }
        watch.look()
        #expect(socket.next() == "WATCHDOG=1")
        #expect(health.problems.isEmpty)

        for _ in 0..<7 {
            clock.advance(5)
            for loop in Heartbeats.Loop.allCases where loop != stalled { heartbeats.stamp(loop) }
        }
        watch.look()
        #expect(socket.next() == nil)
        #expect(health.problems.count == 1)
        #expect(health.problems.first?.cause.hasPrefix(stalled.words) == true)
        #expect(health.isCutOff == (stalled == .packetWorkers))
        let seen = Observation(origin: .init(name: ""), health: health)
        let answer = seen.answer(path: "/healthz")
        #expect(answer?.status == .serviceUnavailable)
        #expect(answer?.body.contains(stalled.rawValue) == true)

        heartbeats.stamp(stalled)
        watch.look()
        #expect(socket.next() == "WATCHDOG=1")
        #expect(health.problems.isEmpty)
        #expect(seen.answer(path: "/healthz")?.status == .ok)
    }

    @Test func whatIsNotWatchedIsNotMissed() {
        let clock = clock
        let heartbeats = Heartbeats(now: { clock.now })
        heartbeats.stamp(.passes)
        clock.advance(3600)
        #expect(heartbeats.silences.map(\.loop) == [.passes])
        heartbeats.forget(.passes)
        #expect(heartbeats.silences.isEmpty)
    }
}
