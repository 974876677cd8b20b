import Addresses
import ArgumentParser
import CMessages
import Glibc

/// Sends datagrams and TCP streams of every shape to `check-receive`.
struct CheckSend: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check-send",
        abstract: "Sends datagrams and TCP streams whose every byte the receiver knows.",
        discussion: """
            The shapes of datagrams follow each other from flow to flow: small; full-sized; of all sizes; segmented \
            by the kernel (UDP_SEGMENT); fragmented; equal in size from a socket that is not connected. Exits with 1 \
            where a stream did not arrive whole.
            """)

    @Option(help: "Address and port of `traffic check-receive`.", transform: SocketAddress.parse)
    var to: SocketAddress

    @Option(help: "Seed of the content, as the receiver has it, and of all that is drawn by chance.")
    var seed: UInt32

    @Option(help: "Seconds to send.")
    var seconds: Double = 2

    @Option(help: "Number of the first flow; the receiver must know no two senders by the same.")
    var firstFlow: UInt16 = 0

    @Option(help: "Flows of datagrams.")
    var datagramFlows = 12

    @Option(help: "Datagrams a second in all.")
    var rate: Double = 10_000

    @Option(help: "Longest datagram that is not fragmented, bytes of payload: MTU less 28; IPv6: 48.")
    var largest = 1444

    @Option(help: "TCP streams that send as fast as they can.")
    var streams = 2

    @Option(help: "TCP streams that send a little now and then.")
    var talkers = 4

    func validate() throws {
        guard (CheckedHeader.bytes...9000).contains(largest) else {
            throw ValidationError("--largest \(largest): \(CheckedHeader.bytes) to 9000")
        }
        guard datagramFlows + streams + talkers > 0, (0...512).contains(datagramFlows + streams + talkers)
        else { throw ValidationError("1 to 512 flows and streams in all") }
    }

    func run() throws {
        StopSignal.install()
        var sender = try CheckedSender(self)
        try sender.run()
        print(sender.json)
        if sender.streamsFailed > 0 { throw ExitCode.failure }
    }
}

/// All flows and streams on one thread.
struct CheckedSender: ~Copyable {
    private enum Shape: CaseIterable {
        case small, full, anySize, segmented, fragmented, unconnected

        /// Datagrams in a row.
        var burst: ClosedRange<Int> {
            switch self {
            case .small, .full, .unconnected: 1...64
            case .anySize: 1...32
            case .segmented, .fragmented: 1...4
            }
        }
    }

    private struct Flow {
        var number: UInt16
        var shape: Shape
        var descriptor: Int32
        var sent: UInt64 = 0
    }

    private struct Stream {
        var number: UInt16
        var descriptor: Int32
        var isTalker: Bool
        var position: UInt64 = 0
        var nextAt: UInt64 = 0
    }

    /// The longest fragmented datagram, bytes: 14 fragments.
    private static let largestFragmented = 20_000
    /// How long the end of a stream is waited for, once everything was written.
    private static let patienceMilliseconds = 30_000

    private let content: CheckedContent
    private let seed: UInt32
    private let destination: SocketAddress
    private let seconds: Double
    private let rate: Double
    private let largest: Int
    private var flows: [Flow] = []
    private var streams: [Stream] = []
    private var generator: SeededGenerator
    private var message = SegmentedMessage()
    private let headers: UnsafeMutableRawPointer

    private var datagramsSent: UInt64 = 0
    /// Sends that this end's kernel refused; their datagrams do not count as sent.
    private var refused: UInt64 = 0
    private var streamBytes: UInt64 = 0
    private(set) var streamsFailed = 0

    init(_ options: CheckSend) throws {
        content = CheckedContent(seed: options.seed)
        seed = options.seed
        destination = options.to
        seconds = options.seconds
        rate = options.rate
        largest = options.largest
        generator = SeededGenerator(seed: UInt64(options.seed) << 16 | UInt64(options.firstFlow))
        headers = .allocate(byteCount: SegmentedMessage.segmentLimit * CheckedHeader.bytes, alignment: 8)
        var number = options.firstFlow
        for index in 0..<options.datagramFlows {
            let shape = Shape.allCases[index % Shape.allCases.count]
            flows.append(
                Flow(number: number, shape: shape, descriptor: try Self.socket(for: shape, to: options.to)))
            number += 1
        }
        for index in 0..<options.streams + options.talkers {
            let isTalker = index >= options.streams
            let descriptor = try Self.connect(to: options.to, isTalker: isTalker)
            let header = CheckedHeader(seed: seed, flow: number, length: 0, sequence: 0)
            header.store(to: headers)
            guard write(descriptor, headers, CheckedHeader.bytes) == CheckedHeader.bytes else {
                throw SystemCallError("begin a stream")
            }
            _ = fcntl(descriptor, F_SETFL, O_NONBLOCK)
            streams.append(Stream(number: number, descriptor: descriptor, isTalker: isTalker))
            number += 1
        }
    }

    deinit {
        headers.deallocate()
        for flow in flows { close(flow.descriptor) }
        for stream in streams { close(stream.descriptor) }
    }

    private static func socket(for shape: Shape, to remote: SocketAddress) throws -> Int32 {
        let descriptor = Glibc.socket(
            remote.family, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw SystemCallError("make a socket") }
        // Without DF the kernel cuts what is longer than the MTU; with it, it counts no identifications.
        var discovery = Int32(shape == .fragmented ? IP_PMTUDISC_DONT : IP_PMTUDISC_DO)
        // IPV6_MTU_DISCOVER takes the same values (linux/in6.h).
        let (level, option) =
            remote.isIPv6 ? (Int32(IPPROTO_IPV6), IPV6_MTU_DISCOVER) : (Int32(IPPROTO_IP), IP_MTU_DISCOVER)
        setsockopt(descriptor, level, option, &discovery, socklen_t(4))
        var bufferBytes: Int32 = 4 << 20
        setsockopt(descriptor, SOL_SOCKET, SO_SNDBUFFORCE, &bufferBytes, socklen_t(4))
        if shape != .unconnected, remote.withPointer({ Glibc.connect(descriptor, $0, $1) }) != 0 {
            throw SystemCallError("connect to \(remote)")
        }
        return descriptor
    }

    private static func connect(to remote: SocketAddress, isTalker: Bool) throws -> Int32 {
        let descriptor = Glibc.socket(
            remote.family, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0, remote.withPointer({ Glibc.connect(descriptor, $0, $1) }) == 0 else {
            throw SystemCallError("connect to \(remote)")
        }
        if isTalker {
            var on: Int32 = 1
            setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(4))
        }
        return descriptor
    }

    mutating func run() throws {
        let start = nanosecondsNow()
        let end = start + UInt64(seconds * 1e9)
        var now = start
        while now < end, !StopSignal.came {
            let due = flows.isEmpty ? 0 : UInt64(Double(now - start) * 1e-9 * rate)
            // The streams get their turn however far the datagrams are behind.
            while datagramsSent + refused < due, nanosecondsNow() < now + 2_000_000 {
                sendBurst(flows.indices.randomElement(using: &generator)!)
            }
            writeStreams(now)
            now = nanosecondsNow()
        }
        finishStreams()
    }

    // MARK: Datagrams

    private mutating func sendBurst(_ index: Int) {
        for _ in 0..<Int.random(in: flows[index].shape.burst, using: &generator) {
            switch flows[index].shape {
            case .small: send(index, size: Int.random(in: CheckedHeader.bytes...128, using: &generator))
            case .full: send(index, size: largest)
            case .anySize:
                send(index, size: Int.random(in: CheckedHeader.bytes...largest, using: &generator))
            case .segmented: sendSegmented(index)
            case .fragmented:
                send(index, size: Int.random(in: largest + 1...Self.largestFragmented, using: &generator))
            case .unconnected: send(index, size: 512)
            }
        }
    }

    private mutating func append(_ size: Int, _ place: Int, _ index: Int) {
        let flow = flows[index]
        let sequence = flow.sent + UInt64(place)
        let header = headers + place * CheckedHeader.bytes
        CheckedHeader(seed: seed, flow: flow.number, length: size, sequence: sequence).store(to: header)
        message.append(header, count: CheckedHeader.bytes)
        message.append(
            content.run(flow: flow.number, sequence: sequence), count: size - CheckedHeader.bytes)
    }

    private mutating func send(_ index: Int, size: Int) {
        message.removeAll()
        append(size, 0, index)
        let flow = flows[index]
        let error = message.send(
            on: flow.descriptor, to: flow.shape == .unconnected ? destination : nil)
        count(1, of: index, error: error)
    }

    private mutating func sendSegmented(_ index: Int) {
        let size = [CheckedHeader.bytes + 1, 100, 700, largest].randomElement(using: &generator)!
        let count = Int.random(in: 2...min(SegmentedMessage.segmentLimit, 65_507 / size), using: &generator)
        let last = generator.oneIn(2) ? size : Int.random(in: CheckedHeader.bytes...size, using: &generator)
        message.removeAll()
        for place in 0..<count { append(place == count - 1 ? last : size, place, index) }
        self.count(
            count, of: index, error: message.send(on: flows[index].descriptor, segmentBytes: size))
    }

    private mutating func count(_ datagrams: Int, of index: Int, error: Int32) {
        if error == 0 {
            flows[index].sent += UInt64(datagrams)
            datagramsSent += UInt64(datagrams)
        } else {
            refused += UInt64(datagrams)
        }
    }

    // MARK: Streams

    /// Writes what the streams take, and waits a millisecond at most.
    private mutating func writeStreams(_ now: UInt64) {
        var polled = streams.map {
            pollfd(fd: $0.nextAt <= now ? $0.descriptor : -1, events: Int16(POLLOUT), revents: 0)
        }
        guard poll(&polled, nfds_t(polled.count), 1) > 0 else { return }
        for index in polled.indices where polled[index].revents != 0 {
            let isTalker = streams[index].isTalker
            let size =
                isTalker && !generator.oneIn(8)
                ? Int.random(in: 1...2000, using: &generator) : Int.random(in: 1...131_072, using: &generator)
            let run = content.run(stream: streams[index].number, position: streams[index].position)
            let written = write(streams[index].descriptor, run, size)
            if written > 0 { streams[index].position += UInt64(written) }
            if isTalker { streams[index].nextAt = now + UInt64.random(in: 0...20_000_000, using: &generator) }
        }
    }

    /// Ends all streams, then hears from the receiver how much of each came as it should.
    private mutating func finishStreams() {
        for stream in streams { shutdown(stream.descriptor, Int32(SHUT_WR)) }
        let deadline = nanosecondsNow() + UInt64(Self.patienceMilliseconds) * 1_000_000
        for stream in streams {
            streamBytes += stream.position
            var answer: UInt64 = 0
            var waited = pollfd(fd: stream.descriptor, events: Int16(POLLIN), revents: 0)
            let now = nanosecondsNow()
            let left = now < deadline ? Int32((deadline - now) / 1_000_000) : 0
            let isAnswered =
                poll(&waited, 1, left) == 1 && read(stream.descriptor, &answer, 8) == 8
                && answer == stream.position
            if !isAnswered { streamsFailed += 1 }
        }
    }

    // MARK: What came of it

    var json: String {
        let sent = flows.map { "\"\($0.number)\":\($0.sent)" }
        return """
            {"datagrams":\(datagramsSent),"refused":\(refused),"streams":\(streams.count),"streams_failed":\
            \(streamsFailed),"stream_bytes":\(streamBytes),"sent":{\(sent.joined(separator: ","))}}
            """
    }
}
