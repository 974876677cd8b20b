import CLinux
import Dispatch
import Glibc

/// Runs what blocks (opening a device, joining threads) away from the threads that run tasks.
package func onThread<Result: Sendable, Failure: Error>(
    _ body: @escaping @Sendable () throws(Failure) -> Result
) async throws(Failure) -> Result {
    let result: Swift.Result<Result, Failure> = await withCheckedContinuation { continuation in
        DispatchQueue.global().async { continuation.resume(returning: Swift.Result(catching: body)) }
    }
    return try result.get()
}

/// Starts a thread for work that must go on whatever the shared threads do.
///
/// - Parameter name: what `top -H` shows, at most 15 bytes.
/// - Returns: whether there is one; false where the kernel refused.
@discardableResult
package func startThread(_ name: String, _ body: @escaping @Sendable () -> Void) -> Bool {
    let work = Unmanaged.passRetained(ThreadWork(name: name, body: body))
    var thread = pthread_t()
    let code = pthread_create(
        &thread, nil,
        { argument in
            guard let argument else { return nil }
            let work = Unmanaged<ThreadWork>.fromOpaque(argument).takeRetainedValue()
            twill_name_thread(work.name)
            work.body()
            return nil
        }, work.toOpaque())
    guard code == 0 else {
        work.release()
        return false
    }
    pthread_detach(thread)
    return true
}

/// What a thread is given.
private final class ThreadWork: Sendable {
    let name: String
    let body: @Sendable () -> Void

    init(name: String, body: @escaping @Sendable () -> Void) {
        self.name = name
        self.body = body
    }
}
