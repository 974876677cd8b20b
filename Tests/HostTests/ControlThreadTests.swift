import Glibc
import Synchronization
import Testing

@testable import Host

@Suite(.timeLimit(.minutes(1))) struct ControlThreadTests {
    /// What runs on a thread of its own.
    private actor Worker {
        private nonisolated let thread: ControlThread
        private(set) var order: [Int] = []
        nonisolated var unownedExecutor: UnownedSerialExecutor { thread.asUnownedSerialExecutor() }

        init(_ thread: ControlThread) { self.thread = thread }

        func threadNumber() -> pthread_t { pthread_self() }

        /// Blocks the thread, and nothing else.
        func append(_ number: Int) {
            usleep(1000)
            order.append(number)
        }
    }

    @Test func anActorsCodeRunsOnItsThreadOnePieceAfterAnother() async throws {
        let thread = try ControlThread()
        defer { thread.close() }
        let worker = Worker(thread)
        let first = await worker.threadNumber()
        await withTaskGroup(of: Void.self) { group in
            for number in 0..<100 { group.addTask { await worker.append(number) } }
        }
        #expect(await worker.order.sorted() == Array(0..<100))
        #expect(await worker.threadNumber() == first)
        #expect(await MainActor.run { pthread_self() } != first)
    }

    @Test func aThreadEndsAfterTheJobsThatItHas() async throws {
        weak var ended: ControlThread?
        do {
            let thread = try ControlThread()
            ended = thread
            let worker = Worker(thread)
            await worker.append(1)
            thread.close()
        }
        while ended != nil { usleep(1000) }
    }

    @Test func aThreadHasItsName() throws {
        let name = Mutex<String?>(nil)
        try SystemThread.start("named") {
            let text = try? TextFile.read("/proc/thread-self/comm")
            name.withLock { $0 = text ?? "" }
        }
        while name.withLock({ $0 == nil }) { usleep(1000) }
        #expect(name.withLock { $0 } == "named\n")
    }
}
