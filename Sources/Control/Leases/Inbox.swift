internal import Synchronization

/// What has happened and was not dealt with yet: anybody posts, and one loop takes.
package final class Inbox<Input: Sendable>: Sendable {
    private struct State {
        var inputs: [Input]
        var waiter: CheckedContinuation<Void, Never>?

        mutating func takeWaiter() -> CheckedContinuation<Void, Never>? {
            defer { waiter = nil }
            return waiter
        }
    }

    private let state: Mutex<State>

    /// Makes an inbox.
    ///
    /// - Parameter first: what is taken first of all, without a wait.
    package init(_ first: Input) { state = Mutex(State(inputs: [first])) }

    /// Adds what happened.
    package func post(_ input: Input) {
        let waiter = state.withLock { state in
            state.inputs.append(input)
            return state.takeWaiter()
        }
        waiter?.resume()
    }

    /// Waits until something has happened, or the task is cancelled, and takes all there is, in order: a burst costs
    /// one turn. One task at a time.
    package func takeAll() async -> [Input] {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let waits = state.withLock { state in
                    guard state.inputs.isEmpty, !Task.isCancelled else { return false }
                    state.waiter = continuation
                    return true
                }
                if !waits { continuation.resume() }
            }
        } onCancel: {
            state.withLock { $0.takeWaiter() }?.resume()
        }
        return state.withLock { state in
            defer { state.inputs = [] }
            return state.inputs
        }
    }
}
