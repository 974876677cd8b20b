import Dispatch

/// Runs what blocks (opening a device, joining threads) away from the threads that run tasks.
func onThread<Result: Sendable, Failure: Error>(
    _ body: @escaping @Sendable () throws(Failure) -> Result
) async throws(Failure) -> Result {
    let result: Swift.Result<Result, Failure> = await withCheckedContinuation { continuation in
        DispatchQueue.global().async { continuation.resume(returning: Swift.Result(catching: body)) }
    }
    return try result.get()
}
