import Dispatch

/// Runs what blocks (file work, child processes, opening a device, joining threads) away from the threads that run
/// tasks.
///
/// Each call has a serial queue of its own, whose work libdispatch gives a thread beyond the processors' number. Its
/// shared queues, `DispatchQueue.global()`, would not do: on Linux the threads that run them are those that run
/// Swift's tasks, as many as there are processors, so that two hung files on two processors held up every task (ADR
/// 80).
///
/// What blocks is declared `@available(*, noasync)`: the compiler refuses a call from a task that does not go through
/// here or through an actor on a `ControlThread`, and `SourceTests` holds declarations to that.
///
/// - Parameter body: what blocks. It runs in the network namespace of the process, not of a thread that changed its
///   own.
/// - Returns: what `body` returns, when it has.
/// - Throws: what `body` throws.
package func onThread<Result: Sendable, Failure: Error>(
    _ body: @escaping @Sendable () throws(Failure) -> Result
) async throws(Failure) -> Result {
    let result: Swift.Result<Result, Failure> = await withCheckedContinuation { continuation in
        DispatchQueue(label: "twill.blocking").async {
            continuation.resume(returning: Swift.Result(catching: body))
        }
    }
    return try result.get()
}

/// The same, for what takes long on a CPU and is in no hurry: on a thread that gives way to the packet threads. Where
/// the kernel gives no such thread it runs as by `onThread`.
///
/// - Parameters:
///   - name: what `top -H` shows, at most 15 bytes.
///   - body: what takes long. It holds no lock that others wait for, and threads that it starts give way as well.
/// - Returns: what `body` returns, when it has.
package func onThreadThatGivesWay<Result: Sendable>(
    _ name: String, _ body: @escaping @Sendable () -> Result
) async -> Result {
    await withCheckedContinuation { continuation in
        do {
            try SystemThread.start(name, givesWay: true) { continuation.resume(returning: body()) }
        } catch {
            DispatchQueue(label: "twill.blocking").async { continuation.resume(returning: body()) }
        }
    }
}
