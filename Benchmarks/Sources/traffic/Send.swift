import Addresses
import ArgumentParser
import CMessages
import EndpointArgument
import Glibc

/// What every sender is told.
struct SendOptions: ParsableArguments {
    @Option(help: "Address and port of `traffic receive`.", transform: parseEndpoint)
    var to: Endpoint

    @Option(help: "Bytes of UDP payload.")
    var size = 64

    @Option(help: "Flows: one socket, and so one source port, each.")
    var flows = 1

    @Option(help: "Addresses that datagrams go to in no order, 16 apart, from --to's on.")
    var destinations = 1

    func validate() throws {
        guard (1...1 << 16).contains(destinations) else {
            throw ValidationError("--destinations \(destinations): 1 to 65536")
        }
        guard (Datagram.headerBytes...2048).contains(size) else {
            throw ValidationError("--size \(size): \(Datagram.headerBytes) to 2048")
        }
        guard (1...Sink.maximumFlows).contains(flows) else {
            throw ValidationError("--flows \(flows): 1 to \(Sink.maximumFlows)")
        }
    }
}

/// Sends at a rate, or as fast as it can.
struct Send: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Sends datagrams and prints what the sink received.")

    @OptionGroup var options: SendOptions

    @Option(help: "Datagrams a second; 0 for as fast as it can.")
    var rate: Double = 0

    @Option(help: "Seconds to send.")
    var seconds: Double = 2

    func run() throws {
        var generator = try Generator(options)
        print(try generator.run(rate: rate, seconds: seconds).json)
    }
}

/// Looks for the highest rate at which less than one datagram in a thousand is lost.
struct Search: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Searches for the highest rate with loss under --loss.")

    @OptionGroup var options: SendOptions

    @Option(help: "Largest share of datagrams that may be lost.")
    var loss = 0.001

    @Option(help: "Seconds a trial.")
    var seconds: Double = 0.5

    @Option(help: "Stop when the bounds are this close to each other, as a share.")
    var precision = 0.03

    func run() throws {
        var generator = try Generator(options)
        // The flood bounds the search from above: no rate without loss lies over what arrives of it.
        let flood = try generator.run(rate: 0, seconds: seconds)
        var low = 0.0
        var high = max(flood.receivedPerSecond, flood.sentPerSecond) * 1.05
        var bottleneckAtHigh = flood.bottleneck
        var best = Outcome()
        var trials = 1
        while high - low > precision * high, trials < 16 {
            let rate = low == 0 ? high / 2 : (low + high) / 2
            let outcome = try generator.run(rate: rate, seconds: seconds)
            trials += 1
            if outcome.lostShare <= loss && outcome.sentPerSecond > rate * 0.97 {
                low = rate
                best = outcome
            } else {
                high = rate
                bottleneckAtHigh = outcome.bottleneck
            }
        }
        best.bottleneckAbove = bottleneckAtHigh
        print(best.json)
    }
}

/// What one run of the generator came to.
struct Outcome {
    var sent: UInt64 = 0
    /// Datagrams that the sender's own kernel refused (ENOBUFS and the like).
    var refused: UInt64 = 0
    var seconds = 0.0
    var askedRate = 0.0
    var sink = SinkReport()
    /// Who kept the next higher rate of a search from being reached.
    var bottleneckAbove: String?

    var sentPerSecond: Double { seconds > 0 ? Double(sent) / seconds : 0 }
    /// By the sender's clock: the sink's own span may hold one batch only.
    var receivedPerSecond: Double { seconds > 0 ? Double(sink.received) / seconds : 0 }
    var lostShare: Double { sent > 0 ? 1 - Double(sink.received) / Double(sent) : 1 }

    /// Who was the limit, where it was not the network.
    var bottleneck: String? {
        if let bottleneckAbove { return bottleneckAbove }
        if sink.droppedAtSink > 0 { return "sink" }
        if askedRate > 0 && sentPerSecond < askedRate * 0.97 { return "generator" }
        return askedRate == 0 && lostShare < 0.001 ? "generator" : nil
    }

    var json: String {
        """
        {"sent":\(sent),"refused":\(refused),"seconds":\(seconds),"asked_per_second":\(askedRate),\
        "sent_per_second":\(sentPerSecond),"received":\(sink.received),"received_per_second":\
        \(receivedPerSecond),"lost_share":\(lostShare),"reordered":\(sink.reordered),"malformed":\
        \(sink.malformed),"dropped_at_sink":\(sink.droppedAtSink),"bottleneck":\
        \(bottleneck.map { "\"\($0)\"" } ?? "null")}
        """
    }
}

/// Sends runs of datagrams in batches of `sendmmsg`, without segmentation offload: each is a packet of its own
/// from the socket on.
struct Generator: ~Copyable {
    private static let batch = 64

    private let sockets: [Int32]
    private let size: Int
    private let outgoing: MessageBatch
    private let sequences: UnsafeMutablePointer<UInt64>
    private let firstDestination: Endpoint
    private let destinations: UInt32
    private var destinationState: UInt32 = 1
    private var currentRun = UInt32.random(in: 1...UInt32.max / 2)

    init(_ options: SendOptions) throws {
        sockets = try (0..<options.flows).map { _ in
            let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
            guard descriptor >= 0,
                SocketAddress(options.to).withPointer({ connect(descriptor, $0, $1) }) == 0
            else { throw SystemCallError("connect to \(options.to)") }
            var sendBuffer: Int32 = 4 << 20
            setsockopt(
                descriptor, SOL_SOCKET, SO_SNDBUFFORCE, &sendBuffer, socklen_t(MemoryLayout<Int32>.size))
            var timeout = timeval(tv_sec: 0, tv_usec: 200_000)
            setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
            return descriptor
        }
        size = options.size
        firstDestination = options.to
        destinations = UInt32(options.destinations)
        outgoing = MessageBatch(count: Self.batch, slotBytes: options.size)
        sequences = .allocate(capacity: options.flows)
    }

    deinit {
        sequences.deallocate()
        for descriptor in sockets { close(descriptor) }
    }

    mutating func run(rate: Double, seconds: Double) throws -> Outcome {
        currentRun &+= 1
        sequences.initialize(repeating: 0, count: sockets.count)
        var outcome = Outcome()
        outcome.askedRate = rate
        let start = nanosecondsNow()
        let end = start + UInt64(seconds * 1e9)
        var flow = 0
        var now = start
        while now < end {
            var count = Self.batch
            if rate > 0 {
                let due = UInt64(Double(now - start) * 1e-9 * rate)
                let offered = outcome.sent + outcome.refused
                guard due > offered else {
                    // Below a batch's worth of time a sleep would overshoot; the wait must not take a core from
                    // what is measured either, so the rest of the time is left to others.
                    sleepUntilDue(nanoseconds: UInt64(16 / rate * 1e9))
                    now = nanosecondsNow()
                    continue
                }
                count = min(count, Int(due - offered))
            }
            send(count, flow: flow, into: &outcome)
            flow = flow + 1 == sockets.count ? 0 : flow + 1
            now = nanosecondsNow()
        }
        outcome.seconds = Double(now - start) * 1e-9
        outcome.sink = try askSink()
        return outcome
    }

    private func sleepUntilDue(nanoseconds: UInt64) {
        guard nanoseconds > 60_000 else {
            sched_yield()
            return
        }
        var time = timespec(tv_sec: 0, tv_nsec: Int(min(nanoseconds, 1_000_000)))
        nanosleep(&time, nil)
    }

    /// A linear congruential walk: no two in a row are neighbours in a table.
    private mutating func nextDestination() -> Endpoint {
        destinationState = destinationState &* 1_664_525 &+ 1_013_904_223
        let place = destinationState >> 8 & 0xFFFF
        return Endpoint(
            address: IPv4Address(bits: firstDestination.addressIPv4.bits + place % destinations * 16),
            port: firstDestination.port)
    }

    private mutating func send(_ count: Int, flow: Int, into outcome: inout Outcome) {
        for index in 0..<count {
            if destinations > 1 { outgoing.setDestination(nextDestination(), of: index) }
            Datagram.store(
                run: currentRun, kind: .data, flow: UInt16(flow), sequence: sequences[flow] + UInt64(index),
                to: outgoing.bytes(index))
        }
        sequences[flow] += UInt64(count)
        let sent = max(sendmmsg(sockets[flow], outgoing.messages, UInt32(count), 0), 0)
        outcome.sent += UInt64(sent)
        outcome.refused += UInt64(count - Int(sent))
    }

    /// Asks until the sink answers twice with the same count: nothing is on its way any more.
    private func askSink() throws -> SinkReport {
        var previous: SinkReport?
        let bytes = UnsafeMutableRawPointer.allocate(byteCount: 2048, alignment: 16)
        defer { bytes.deallocate() }
        for _ in 0..<50 {
            var pause = timespec(tv_sec: 0, tv_nsec: 20_000_000)
            nanosleep(&pause, nil)
            Datagram.store(run: currentRun, kind: .reportRequest, flow: 0, sequence: 0, to: bytes)
            Glibc.send(sockets[0], bytes, Datagram.headerBytes, 0)
            let count = recv(sockets[0], bytes, 2048, 0)
            guard count == SinkReport.bytes, bytes.load(as: UInt32.self) == currentRun else { continue }
            let report = SinkReport(from: bytes)
            if let previous, previous.received == report.received { return report }
            previous = report
        }
        guard let previous else { throw SinkSilent() }
        return previous
    }
}

/// The sink answered none of fifty requests.
struct SinkSilent: Error, CustomStringConvertible {
    var description: String {
        "no answer from the sink: is `traffic receive` running, and is there a route to it?"
    }
}
