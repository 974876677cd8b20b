import Synchronization

/// The right to run a lab. A test runner starts all tests at once; two processors carry a few labs, and with more of them
/// everything that a test waits for comes late.
final class LabPlace: Sendable {
    /// How many there are.
    static let count = 3

    private struct State {
        var free = LabPlace.count
        var waiting: [(places: Int, continuation: CheckedContinuation<Void, Never>)] = []

        /// Those whose turn it is: in the order in which they came, so that who needs many places gets them.
        mutating func next() -> [CheckedContinuation<Void, Never>] {
            var next: [CheckedContinuation<Void, Never>] = []
            while let first = waiting.first, first.places <= free {
                free -= first.places
                next.append(waiting.removeFirst().continuation)
            }
            return next
        }
    }

    private static let state = Mutex(State())
    private let places: Int

    private init(_ places: Int) { self.places = places }

    /// Waits for so many places; they are given back with the object. A test that makes a second lab while it has one may
    /// wait for ever.
    static func take(_ places: Int) async -> LabPlace {
        await withCheckedContinuation { continuation in
            let next = state.withLock { state in
                state.waiting.append((places, continuation))
                return state.next()
            }
            for one in next { one.resume() }
        }
        return LabPlace(places)
    }

    deinit {
        let next = LabPlace.state.withLock { state in
            state.free += places
            return state.next()
        }
        for one in next { one.resume() }
    }
}
