import Addresses
import CLinux
import FoundationEssentials
import Glibc
import NetworkNamespaces
import Synchronization

/// Numbered datagrams from one pod to another at an even rate, and what became of them: lost, twice, out of order in
/// their flow, and the longest time in which none came though one was on its way.
///
/// Two threads, one of which sends and one receives. That they have no processor is no gap: it begins when the first datagram
/// is sent that has not come, and ends when the receiver's kernel has one (SO_TIMESTAMPNS), whenever that is read.
public final class NumberedTraffic: Sendable {
    /// Flows, each with a source port of its own, that take turns.
    public static let flows = 16
    private static let batch = 16
    /// Bytes of a datagram: the flow, its number there, its number among all.
    private static let payloadBytes = 24
    /// Sending times that are kept: those of some seconds, a power of two.
    private static let timesKept = 1 << 20
    /// Bytes for the control message with the receiver's time: a header of 16, and a `timespec`.
    private static let controlBytes = 32

    /// What became of the datagrams.
    public struct Report: Sendable {
        /// Datagrams sent.
        public var sent = 0
        /// Of those, how many never came.
        public var lost = 0
        /// How many came more often than once.
        public var duplicated = 0
        /// How many came after a later one of their flow.
        public var reordered = 0
        /// The first of those, and when it came; nil where there is none.
        public var firstReordered: String?
        /// The longest time in which something had been sent and nothing came, milliseconds.
        public var longestGapMilliseconds = 0.0
    }

    private let senders: [Int32]
    private let receiver: Int32
    private let rate: Int
    private let isOver = Atomic<Bool>(false)
    private let isSent = Atomic<Bool>(false)
    private let threads = Mutex<[pthread_t]>([])
    private let seen: Mutex<Seen>
    /// When each datagram was sent, by its number among all modulo `timesKept`: nanoseconds of the monotonic clock.
    private nonisolated(unsafe) let times: UnsafeMutablePointer<Atomic<Int>>
    private let sentCounts = Mutex([UInt64](repeating: 0, count: NumberedTraffic.flows))
    private let longestGap = Atomic<Int>(0)
    private let lastArrival = Atomic<Int>(0)

    fileprivate struct Seen {
        /// Which numbers of each flow came, a bit each.
        var words = [[UInt64]](repeating: [], count: NumberedTraffic.flows)
        var highest = [Int](repeating: -1, count: NumberedTraffic.flows)
        var duplicated = 0
        var reordered = 0
        var firstReordered: String?
    }

    /// Starts to send.
    ///
    /// - Parameters:
    ///   - rate: datagrams a second, of all flows.
    ///   - port: at which they come; another one for each traffic to the same pod.
    public static func start(
        from source: some LabHost, to target: LabPod, rate: Int, port: UInt16 = 9999
    ) async throws -> NumberedTraffic {
        guard let address = IPAddress(target.address) else {
            throw NoSocket(description: "\(target.address) is no address")
        }
        let there = Endpoint(address: address, port: port)
        let receiver = try await target.namespace.run { try socket(there, bind) }
        let senders = try await source.namespace.run {
            try (0..<flows).map { _ in try socket(there, connect) }
        }
        let traffic = NumberedTraffic(senders: senders, receiver: receiver, rate: rate)
        // Each on the processors of its host.
        try await target.namespace.run { traffic.begin { $0.receive() } }
        try await source.namespace.run { traffic.begin { $0.send() } }
        return traffic
    }

    private init(senders: [Int32], receiver: Int32, rate: Int) {
        self.senders = senders
        self.receiver = receiver
        self.rate = rate
        seen = Mutex(Seen())
        times = .allocate(capacity: Self.timesKept)
        for index in 0..<Self.timesKept { (times + index).initialize(to: Atomic(0)) }
    }

    deinit {
        for descriptor in senders + [receiver] { close(descriptor) }
        times.deallocate()
    }

    private static func socket(
        _ endpoint: Endpoint, _ name: (Int32, UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) throws -> Int32 {
        let descriptor = Glibc.socket(
            endpoint.address.addressFamily == .ipv4 ? AF_INET : AF_INET6,
            Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var bytes: Int32 = 64 << 20
        setsockopt(descriptor, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, 4)
        setsockopt(descriptor, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, 4)
        var isWanted: Int32 = 1
        setsockopt(descriptor, SOL_SOCKET, SO_TIMESTAMPNS, &isWanted, 4)
        guard endpoint.withSocketName({ name(descriptor, $0, $1) }) == 0 else {
            throw NoSocket(description: "cannot bind or reach \(endpoint)")
        }
        return descriptor
    }

    private final class Job: Sendable {
        let traffic: NumberedTraffic
        let work: @Sendable (NumberedTraffic) -> Void
        init(_ traffic: NumberedTraffic, _ work: @escaping @Sendable (NumberedTraffic) -> Void) {
            self.traffic = traffic
            self.work = work
        }
    }

    private func begin(_ work: @escaping @Sendable (NumberedTraffic) -> Void) {
        let job = Unmanaged.passRetained(Job(self, work))
        var thread = pthread_t()
        pthread_create(
            &thread, nil,
            { argument in
                if let argument {
                    let job = Unmanaged<Job>.fromOpaque(argument).takeRetainedValue()
                    job.work(job.traffic)
                }
                return nil
            }, job.toOpaque())
        threads.withLock { $0.append(thread) }
    }

    private static func now(_ clock: clockid_t = CLOCK_MONOTONIC) -> Int {
        var time = timespec()
        clock_gettime(clock, &time)
        return nanoseconds(time)
    }

    private static func nanoseconds(_ time: timespec) -> Int { time.tv_sec * 1_000_000_000 + time.tv_nsec }

    /// Sends what is due, a few milliseconds' worth at most at once: a sender that had no processor for longer does not make
    /// up for it by a burst that no queue on the way is made for.
    private func send() {
        var counts = [UInt64](repeating: 0, count: Self.flows)
        var flow = 0
        var due = 0.0
        var all = 0
        var last = Self.now()
        while !isOver.load(ordering: .relaxed) {
            let now = Self.now()
            due = min(due + Double(now - last) * Double(rate) / 1e9, max(Double(rate) / 500, 1))
            last = now
            while due >= 1 {
                var payload = (UInt64(flow), counts[flow], UInt64(all))
                times[all % Self.timesKept].store(Self.now(), ordering: .releasing)
                let sent = withUnsafeBytes(of: &payload) {
                    Glibc.send(senders[flow], $0.baseAddress, Self.payloadBytes, 0)
                }
                if sent == Self.payloadBytes {
                    counts[flow] += 1
                    all += 1
                } else {
                    // No room in this machine's own queue, or no route: the number is used again, and nothing was lost on the
                    // way.
                    break
                }
                flow = (flow + 1) % Self.flows
                due -= 1
            }
            usleep(50)
        }
        sentCounts.withLock { $0 = counts }
        isSent.store(true, ordering: .releasing)
    }

    private func receive() {
        var seen = Seen()
        var gaps = Gaps()
        let room = Self.batch * (64 + Self.controlBytes)
        let buffers = UnsafeMutableRawPointer.allocate(byteCount: room, alignment: 16)
        let controls = buffers + Self.batch * 64
        let vectors = UnsafeMutablePointer<iovec>.allocate(capacity: Self.batch)
        let messages = UnsafeMutablePointer<twill_batch_message>.allocate(capacity: Self.batch)
        defer {
            buffers.deallocate()
            vectors.deallocate()
            messages.deallocate()
        }
        for index in 0..<Self.batch {
            vectors[index] = iovec(iov_base: buffers + index * 64, iov_len: 64)
            (messages + index).initialize(to: twill_batch_message())
            messages[index].header.msg_iov = vectors + index
            messages[index].header.msg_iovlen = 1
            messages[index].header.msg_control = controls + index * Self.controlBytes
        }
        var last = 0
        while true {
            for index in 0..<Self.batch { messages[index].header.msg_controllen = Self.controlBytes }
            let count = Int(twill_receive_batch(receiver, messages, UInt32(Self.batch)))
            let now = Self.now()
            guard count > 0 else {
                if isSent.load(ordering: .acquiring), now - last > 1_000_000_000 { break }
                var entry = pollfd(fd: receiver, events: Int16(POLLIN), revents: 0)
                poll(&entry, 1, 100)
                continue
            }
            last = now
            lastArrival.store(now, ordering: .relaxed)
            let sinceEpoch = Self.now(CLOCK_REALTIME) - now
            for index in 0..<count where messages[index].length == Self.payloadBytes {
                let payload = buffers + index * 64
                let flow = Int(payload.load(as: UInt64.self)) % Self.flows
                seen.take(Int(payload.load(fromByteOffset: 8, as: UInt64.self)), of: flow)
                let arrival = Self.arrival(of: messages[index].header).map { $0 - sinceEpoch } ?? now
                let number = Int(payload.load(fromByteOffset: 16, as: UInt64.self))
                gaps.take(number, at: arrival) { times[$0 % Self.timesKept].load(ordering: .acquiring) }
            }
            longestGap.store(gaps.longest, ordering: .relaxed)
        }
        self.seen.withLock { $0 = seen }
    }

    /// When the kernel had a datagram, nanoseconds since the epoch (SO_TIMESTAMPNS).
    private static func arrival(of header: msghdr) -> Int? {
        guard let control = header.msg_control, header.msg_controllen >= controlBytes else { return nil }
        let head = control.load(as: cmsghdr.self)
        guard head.cmsg_level == SOL_SOCKET, head.cmsg_type == SO_TIMESTAMPNS else { return nil }
        return nanoseconds(control.load(fromByteOffset: MemoryLayout<cmsghdr>.size, as: timespec.self))
    }

    /// For how long nothing came though something was on its way.
    private struct Gaps {
        private var highest = -1
        private var last = 0
        private(set) var longest = 0

        /// Takes a datagram with this number among all.
        mutating func take(_ number: Int, at arrival: Int, sent: (Int) -> Int) {
            if number > highest {
                // What was sent before the last arrival and has not come since waits from that arrival on.
                if last > 0 { longest = max(longest, arrival - max(last, sent(highest + 1))) }
                highest = number
            }
            last = max(last, arrival)
        }
    }

    /// Waits until datagrams come.
    public func flows() async throws {
        _ = try await until("numbered datagrams") { lastArrival.load(ordering: .relaxed) > 0 ? true : nil }
    }

    /// Ends the sending, waits for what is on its way, and gives what became of all.
    public func end() async -> Report {
        isOver.store(true, ordering: .relaxed)
        let running = threads.withLock { $0 }
        await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
            let joiner = Thread(running) { continuation.resume() }
            joiner.begin()
        }
        var report = Report()
        let sent = sentCounts.withLock { $0 }
        seen.withLock { seen in
            report.sent = Int(sent.reduce(0, +))
            let came = seen.words.joined().reduce(0) { $0 + $1.nonzeroBitCount }
            report.lost = report.sent - came
            report.duplicated = seen.duplicated
            report.reordered = seen.reordered
            report.firstReordered = seen.firstReordered
        }
        report.longestGapMilliseconds = Double(longestGap.load(ordering: .relaxed)) / 1e6
        return report
    }

    private final class Thread: Sendable {
        let threads: [pthread_t]
        let done: @Sendable () -> Void
        init(_ threads: [pthread_t], _ done: @escaping @Sendable () -> Void) {
            self.threads = threads
            self.done = done
        }
        func begin() {
            let own = Unmanaged.passRetained(self)
            var thread = pthread_t()
            pthread_create(
                &thread, nil,
                { argument in
                    guard let argument else { return nil }
                    let own = Unmanaged<Thread>.fromOpaque(argument).takeRetainedValue()
                    for thread in own.threads { pthread_join(thread, nil) }
                    own.done()
                    return nil
                }, own.toOpaque())
            pthread_detach(thread)
        }
    }
}

extension NumberedTraffic.Seen {
    fileprivate mutating func take(_ number: Int, of flow: Int) {
        let (word, bit) = (number / 64, UInt64(1) << UInt64(number % 64))
        while words[flow].count <= word { words[flow].append(0) }
        if words[flow][word] & bit != 0 {
            duplicated += 1
        } else {
            words[flow][word] |= bit
        }
        guard number < highest[flow] else { return highest[flow] = number }
        reordered += 1
        if firstReordered == nil {
            firstReordered =
                "\(number) of flow \(flow) after \(highest[flow]), at \(Date().timeIntervalSince1970) s of the epoch"
        }
    }
}
