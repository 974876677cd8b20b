import Dispatch
import Glibc
import Testing

@testable import Host

@Suite(.timeLimit(.minutes(2))) struct OnThreadTests {
    /// Work that blocks, more of it than there are processors, holds up no task: the one that ends it.
    @Test func tasksRunWhileAllElseBlocks() async {
        let count = 64
        let ends = DispatchSemaphore(value: 0)
        let hasEnded = await withTaskGroup(of: DispatchTimeoutResult.self) { group in
            for _ in 0..<count {
                group.addTask { await onThread { ends.wait(timeout: .now() + .seconds(30)) } }
            }
            // Begun after all of those, and so behind them where they share threads.
            await Task.detached { for _ in 0..<count { ends.signal() } }.value
            return await group.reduce(into: []) { $0.append($1) }
        }
        #expect(hasEnded == Array(repeating: .success, count: count))
    }

    @Test func whatIsThrownComesBack() async {
        await #expect(throws: SystemError("it", code: 5)) {
            try await onThread { () throws(SystemError) in throw SystemError("it", code: 5) }
        }
        #expect(await onThread { 7 } == 7)
    }

    /// A packet thread that waits for its turn on a full CPU loses what its socket has no room for.
    @Test func whatIsInNoHurryGivesWayAndNothingElseDoes() async {
        let process = __priority_which_t(PRIO_PROCESS.rawValue)
        let before = getpriority(process, 0)
        #expect(await onThreadThatGivesWay("patient") { getpriority(process, 0) } == max(before, 10))
        #expect(await onThread { getpriority(process, 0) } == before)
        #expect(getpriority(process, 0) == before)
    }
}
