import Dispatch
import Host

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
    (try? SystemThread.start(name, body)) != nil
}
