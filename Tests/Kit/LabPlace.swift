import Synchronization

/// The right to run a lab. A test runner starts all tests at once; two processors carry a few labs, and with more of them
/// everything that a test waits for comes late.
final class LabPlace: Sendable {
    private struct State {
        var free = 3
        var waiting: [CheckedContinuation<Void, Never>] = []
    }

    private static let state = Mutex(State())

    private init() {}

    /// Waits for a place; it is given back with the object. A test that makes a second lab while it has one may wait for ever.
    static func take() async -> LabPlace {
        await withCheckedContinuation { continuation in
            let isFree = state.withLock { state in
                guard state.free > 0 else {
                    state.waiting.append(continuation)
                    return false
                }
                state.free -= 1
                return true
            }
            if isFree { continuation.resume() }
        }
        return LabPlace()
    }

    deinit {
        let next: CheckedContinuation<Void, Never>? = LabPlace.state.withLock { state in
            guard state.waiting.isEmpty else { return state.waiting.removeFirst() }
            state.free += 1
            return nil
        }
        next?.resume()
    }
}
