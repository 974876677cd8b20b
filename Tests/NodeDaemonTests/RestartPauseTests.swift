import Glibc
import Testing

@testable import NodeDaemon

@Suite struct RestartPauseTests {
    @Test func threadsThatFailAtOnceEachTimeRestLongerAndLonger() {
        var restarts = RestartPause()
        var now = ContinuousClock.now
        var pauses: [Int64] = []
        for _ in 0..<10 {
            restarts.begin(at: now)
            guard case .ended(EBADF, let pause) = restarts.look(errorNumber: EBADF, at: now) else {
                Issue.record("they have ended")
                return
            }
            pauses.append(pause.components.seconds)
            if pause > .seconds(1) {
                let early = restarts.look(errorNumber: EBADF, at: now + .seconds(1))
                #expect(early == .ended(errorNumber: EBADF, pause: pause - .seconds(1)))
            }
            now += pause
            let due = restarts.look(errorNumber: EBADF, at: now)
            #expect(due == .restart)
        }
        #expect(pauses == [0, 2, 4, 8, 16, 32, 60, 60, 60, 60])
    }

    @Test func threadsThatRanForAMinuteAreWell() {
        var restarts = RestartPause()
        let start = ContinuousClock.now
        restarts.begin(at: start)
        var finding = restarts.look(errorNumber: 0, at: start + .seconds(1))
        #expect(finding == .runs)
        finding = restarts.look(errorNumber: EIO, at: start + .seconds(2))
        #expect(finding == .ended(errorNumber: EIO, pause: .zero))
        restarts.begin(at: start + .seconds(3))
        finding = restarts.look(errorNumber: 0, at: start + .seconds(62))
        #expect(finding == .runsAgain(times: 1, errorNumber: EIO))
        finding = restarts.look(errorNumber: 0, at: start + .seconds(63))
        #expect(finding == .hasRun)
        finding = restarts.look(errorNumber: 0, at: start + .seconds(64))
        #expect(finding == .runs)
        // The next end is a first one again.
        finding = restarts.look(errorNumber: EIO, at: start + .seconds(65))
        #expect(finding == .ended(errorNumber: EIO, pause: .zero))
    }
}
