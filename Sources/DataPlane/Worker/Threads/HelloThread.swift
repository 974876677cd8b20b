// How it works. A thread of its own, so that no packet waits for a hello: it sleeps until a packet thread has left one
// in its inbox, or a peer is to be asked. What is to be done `PeerHellos` says; here are the socket and the clock.

import Addresses
import CLinux
import Counters
import Engines
import Forwarding
import Glibc
import Hello
import Synchronization

/// Asks the peers whether they take kernel-path datagrams in, answers those that ask, and tells the kernel path.
final class HelloThread: ForwardingSubscriber, Sendable {
    /// What the packet threads leave hellos in, in the order of the workers.
    let inboxes: [HelloInbox]
    private let wake: Int32
    /// What it counts; the thread is the one writer.
    let counters = CounterBlock.allocate()
    private let socket = Mutex<Int32?>(nil)
    private let kernelPath = Mutex<(any KernelPathPeers)?>(nil)
    private let peers = Mutex<[ForwardingPeer]?>(nil)
    private let roundTrips = Mutex(PeerRoundTrips())
    private let stopping = Atomic<Bool>(false)
    private let thread = Mutex<pthread_t?>(nil)

    /// At most so long it sleeps: then it looks whether what the kernel path says has changed.
    private static let longestSleepMilliseconds = 1_000

    /// - Parameter workers: how many there are.
    init(workers: Int) throws(DataPlaneError) {
        let wake = eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))
        guard wake >= 0 else { throw .resource("make an eventfd", errorNumber: errno) }
        self.wake = wake
        inboxes = (0..<workers).map { _ in HelloInbox.allocate(wake: wake) }
    }

    deinit {
        close(wake)
        for inbox in inboxes { inbox.deallocate() }
        counters.deallocate()
    }

    /// Takes the peers of new routes. However often they change, the thread looks ten times a second at most.
    func publish(_ routes: ForwardingRoutes) -> Int {
        let isAwaited = peers.withLock { peers in
            defer { peers = routes.peers }
            return peers == nil
        }
        if isAwaited { eventfd_write(wake, 1) }
        return 0
    }

    /// What is known of each peer that answers.
    var answered: [Endpoint: AnsweredHellos] { roundTrips.withLock(\.answered) }

    /// Starts the thread. Where it is not started, this node asks nobody and answers nobody.
    ///
    /// - Parameters:
    ///   - kernelPath: whom to tell.
    ///   - socket: from the network's port, without checksums; the caller's to close, after `stop`. Nil where there is
    ///     none: then nothing is asked and nobody answered.
    func start(telling kernelPath: any KernelPathPeers, on socket: Int32?) throws(DataPlaneError) {
        guard let socket else { return }
        self.socket.withLock { $0 = socket }
        self.kernelPath.withLock { $0 = kernelPath }
        var thread = pthread_t()
        let context = Unmanaged.passRetained(self)
        let result = pthread_create(
            &thread, nil,
            { argument in
                // checked: what is passed below
                let hellos = Unmanaged<HelloThread>.fromOpaque(argument!).takeRetainedValue()
                twill_name_thread("hello")
                hellos.run()
                return nil
            }, context.toOpaque())
        guard result == 0 else {
            context.release()
            throw .resource("start the thread of the hellos", errorNumber: result)
        }
        self.thread.withLock { $0 = thread }
    }

    /// Ends the thread; may be called again.
    func stop() {
        stopping.store(true, ordering: .sequentiallyConsistent)
        eventfd_write(wake, 1)
        let running = thread.withLock { thread in
            defer { thread = nil }
            return thread
        }
        if let running { pthread_join(running, nil) }
    }

    private func run() {
        guard let socket = socket.withLock({ $0 }), let path = kernelPath.withLock({ $0 }) else { return }
        var hellos = PeerHellos()
        var followAt = 0
        while !stopping.load(ordering: .relaxed) {
            let now = HelloThread.now
            let receives = path.receives
            if now >= followAt, let peers = peers.withLock({ $0.take() }) {
                hellos.follow(peers.lazy.map(\.endpoint), at: now)
                roundTrips.withLock { $0.follow(peers.lazy.map(\.endpoint)) }
                followAt = now + HelloLimits.turn
            }
            let hasNewPeers = peers.withLock { $0 != nil }
            for inbox in inboxes {
                while let arrival = inbox.take() {
                    noteAnswer(arrival)
                    carryOut(
                        hellos.take(arrival.message, from: arrival.sender, at: now, receives: receives), path,
                        socket)
                }
            }
            carryOut(hellos.turn(at: now, receives: receives), path, socket)
            sleep(until: min(hellos.due ?? Int.max, hasNewPeers ? followAt : Int.max))
        }
    }

    private func sleep(until due: Int) {
        let milliseconds = min(max(due - HelloThread.now, 0), HelloThread.longestSleepMilliseconds)
        var descriptor = pollfd(fd: wake, events: Int16(POLLIN), revents: 0)
        guard poll(&descriptor, 1, Int32(clamping: milliseconds)) > 0 else { return }
        var value: eventfd_t = 0
        eventfd_read(wake, &value)
    }

    private func carryOut(
        _ actions: [PeerHellos.Action], _ path: any KernelPathPeers, _ socket: Int32
    ) {
        for action in actions {
            switch action {
            case .send(let message, let endpoint): send(message, to: endpoint, on: socket)
            case .allow(let endpoint, let milliseconds):
                path.allow(endpoint, forMilliseconds: milliseconds)
            case .disallow(let endpoint): path.disallow(endpoint)
            }
        }
    }

    private func noteAnswer(_ arrival: HelloInbox.Arrival) {
        guard arrival.message.kind == .answer else { return }
        roundTrips.withLock {
            $0.noteAnswer(arrival.message.number, from: arrival.sender, at: arrival.nanoseconds)
        }
    }

    /// What is not sent is lost, as anywhere on the way: it is asked for again.
    private func send(_ message: HelloMessage, to endpoint: Endpoint, on socket: Int32) {
        let now = MachineClock.nanoseconds
        let sent = withUnsafeTemporaryAllocation(byteCount: HelloMessage.byteCount, alignment: 8) { bytes in
            // checked: it has bytes
            message.write(to: bytes.baseAddress!)
            return endpoint.withSocketName {
                sendto(socket, bytes.baseAddress, bytes.count, Int32(MSG_DONTWAIT), $0, $1)
            }
        }
        guard sent == HelloMessage.byteCount else { return }
        counters.add(.hellosSent)
        guard message.kind == .question else { return }
        roundTrips.withLock { $0.noteQuestion(message.number, to: endpoint, at: now) }
    }

    /// Milliseconds of a clock that only goes forward.
    private static var now: Int { MachineClock.nanoseconds / 1_000_000 }
}
