import CLinux
import Glibc
import Synchronization

/// What a worker's thread is to do.
enum WorkerOrder: UInt8, AtomicRepresentable {
    /// Get its memory and its engine.
    case prepare
    /// Take the channels.
    case attach
    /// Forward.
    case run
    /// Take nothing in any more, work off what it holds, and rest.
    case cease
    /// The same, once its queue and its socket were empty.
    case empty
    /// End.
    case end
}

/// The orders of all workers: each looks at its own once a round, and one that rests waits for another.
final class WorkerOrders: Sendable {
    private struct Place: @unchecked Sendable {
        let order: UnsafeMutablePointer<Atomic<WorkerOrder>>
        /// How often it was asked to catch up, and up to which of these it has: what waited for it when it was asked is sent
        /// and written then.
        let asked: UnsafeMutablePointer<Atomic<UInt64>>
        let caughtUp: UnsafeMutablePointer<Atomic<UInt64>>
        /// An eventfd that a resting worker waits on.
        let gate: Int32
    }

    private let places: [Place]

    /// Nil where the kernel has no more descriptors; `errno` says which limit.
    init?(count: Int) {
        var places: [Place] = []
        var isComplete = true
        for _ in 0..<count {
            let gate = eventfd(0, Int32(EFD_CLOEXEC))
            isComplete = isComplete && gate >= 0
            let order = UnsafeMutablePointer<Atomic<WorkerOrder>>.allocate(capacity: 1)
            order.initialize(to: Atomic(.prepare))
            let asked = UnsafeMutablePointer<Atomic<UInt64>>.allocate(capacity: 1)
            asked.initialize(to: Atomic(1))
            let caughtUp = UnsafeMutablePointer<Atomic<UInt64>>.allocate(capacity: 1)
            caughtUp.initialize(to: Atomic(0))
            places.append(Place(order: order, asked: asked, caughtUp: caughtUp, gate: gate))
        }
        self.places = places
        if !isComplete { return nil }
    }

    deinit {
        for place in places {
            place.order.deinitialize(count: 1)
            place.order.deallocate()
            for count in [place.asked, place.caughtUp] {
                count.deinitialize(count: 1)
                count.deallocate()
            }
            if place.gate >= 0 { close(place.gate) }
        }
    }

    /// That of one worker.
    subscript(_ worker: Int) -> WorkerOrder { places[worker].order.pointee.load(ordering: .acquiring) }

    /// Gives some workers an order, and wakes those that rest. One in its round hears of it when that has ended.
    func give(_ order: WorkerOrder, to workers: Range<Int>) {
        for place in places[workers] {
            if order == .cease || order == .empty { place.asked.pointee.add(1, ordering: .releasing) }
            place.order.pointee.store(order, ordering: .sequentiallyConsistent)
            eventfd_write(place.gate, 1)
        }
    }

    /// Whether something may still wait for a worker, or be held by it, that did when it was last asked to catch up, or when it
    /// last rested. Any thread may ask.
    @inline(__always)
    func isBehind(_ worker: Int) -> Bool {
        let place = places[worker]
        let caughtUp = place.caughtUp.pointee.load(ordering: .acquiring)
        return caughtUp != place.asked.pointee.load(ordering: .acquiring)
    }

    /// Asks a worker to find its queue and its sockets empty, and to send and write what it has. Any thread may.
    func askToCatchUp(_ worker: Int) { places[worker].asked.pointee.add(1, ordering: .releasing) }

    /// How often a worker was asked.
    func catchingUpAsked(of worker: Int) -> UInt64 { places[worker].asked.pointee.load(ordering: .acquiring) }

    /// Notes that a worker has caught up since it was asked so often, on its own thread.
    func noteCaughtUp(_ asked: UInt64, of worker: Int) {
        places[worker].caughtUp.pointee.store(asked, ordering: .releasing)
    }

    /// Waits until the order is another one.
    func next(after order: WorkerOrder, of worker: Int) -> WorkerOrder {
        while self[worker] == order {
            var value: eventfd_t = 0
            eventfd_read(places[worker].gate, &value)
        }
        return self[worker]
    }
}

/// How the threads stand, for whoever waits for them.
final class WorkerStates: Sendable {
    /// How far a thread has come.
    enum State { case preparing, prepared, attached, running, parked, ended }

    private struct Known {
        var states: [State]
        var refusal: DataPlaneError?
        var failures: [Int: Int32] = [:]
    }

    private let known: Mutex<Known>
    /// An eventfd that says that a state is another one.
    private let changes: Int32

    /// Nil where the kernel has no more descriptors; `errno` says which limit.
    init?(count: Int) {
        known = Mutex(Known(states: [State](repeating: .preparing, count: count)))
        changes = eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))
        if changes < 0 { return nil }
    }

    deinit { if changes >= 0 { close(changes) } }

    func note(_ state: State, of worker: Int) {
        known.withLock {
            $0.states[worker] = state
            if state == .running { $0.failures[worker] = nil }
        }
        eventfd_write(changes, 1)
    }

    /// Notes that a worker could not begin.
    func noteRefusal(_ error: DataPlaneError, of worker: Int) {
        known.withLock {
            $0.states[worker] = .ended
            if $0.refusal == nil { $0.refusal = error }
            if case .engine(_, let code) = error { $0.failures[worker] = code }
            if case .resource(_, let code) = error { $0.failures[worker] = code }
        }
        eventfd_write(changes, 1)
    }

    /// Notes that a worker that forwarded has ended by itself.
    func noteFailure(_ errorNumber: Int32, of worker: Int) {
        known.withLock {
            $0.states[worker] = .ended
            $0.failures[worker] = errorNumber
        }
        eventfd_write(changes, 1)
    }

    func isEnded(_ worker: Int) -> Bool { known.withLock { $0.states[worker] == .ended } }

    var failures: [(worker: Int, errorNumber: Int32)] {
        known.withLock { $0.failures.sorted { $0.key < $1.key } }.map { ($0.key, $0.value) }
    }

    /// Waits until all workers have come to a state.
    ///
    /// - Throws: what one could not begin for.
    func wait(_ isReached: (State) -> Bool) throws(DataPlaneError) {
        while true {
            let (isOver, refusal) = known.withLock { ($0.states.allSatisfy(isReached), $0.refusal) }
            if let refusal { throw refusal }
            if isOver { return }
            sleep(milliseconds: -1)
        }
    }

    /// Waits until some workers have come to a state. Returns whether they have in time.
    func wait(forMilliseconds limit: Int, of workers: Range<Int>, _ isReached: (State) -> Bool) -> Bool {
        let end = ContinuousClock.now + .milliseconds(limit)
        while !known.withLock({ $0.states[workers].allSatisfy(isReached) }) {
            guard ContinuousClock.now < end else { return false }
            sleep(milliseconds: 20)
        }
        return true
    }

    private func sleep(milliseconds: Int32) {
        var entry = pollfd(fd: changes, events: Int16(POLLIN), revents: 0)
        poll(&entry, 1, milliseconds)
        var value: eventfd_t = 0
        eventfd_read(changes, &value)
    }
}
