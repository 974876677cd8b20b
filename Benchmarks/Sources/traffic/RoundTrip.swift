import Addresses
import ArgumentParser
import CMessages
import EndpointArgument
import Glibc
import Histogram

/// Sends datagrams and times how long each takes to come back.
struct RoundTrip: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "round-trip", abstract: "Times request and response, one at a time or at a pace.")

    @OptionGroup var options: SendOptions

    @Option(help: "Seconds to go on.")
    var seconds: Double = 2

    @Option(
        help: """
            Microseconds from one request to the next, whether or not answers came, so that a stall counts for as \
            many requests as it delays; 0: the next request follows the answer.
            """)
    var interval: UInt64 = 0

    /// An answer that has not come by then is lost.
    private static let patienceMilliseconds = 200

    func run() throws {
        let socket = try Socket(.datagram)
        try socket.connect(SocketAddress(options.to))
        let bytes = UnsafeMutableRawPointer.allocate(byteCount: 2048, alignment: 16)
        defer { bytes.deallocate() }
        bytes.initializeMemory(as: UInt8.self, repeating: 0, count: 2048)
        print(interval == 0 ? oneAtATime(socket, bytes) : paced(socket, bytes))
    }

    private static func emptyHistogram() -> Histogram<UInt64> {
        Histogram(highestTrackableValue: 10_000_000_000, numberOfSignificantValueDigits: .three)
    }

    private func oneAtATime(_ socket: borrowing Socket, _ bytes: UnsafeMutableRawPointer) -> String {
        socket.setReceiveTimeout(milliseconds: RoundTrip.patienceMilliseconds)
        let run = UInt32.random(in: 1...UInt32.max)
        var histogram = RoundTrip.emptyHistogram()
        var lost = 0
        var sequence: UInt64 = 0
        let start = nanosecondsNow()
        let end = start + UInt64(seconds * 1e9)
        var sentAt = start
        while sentAt < end {
            sequence += 1
            Datagram.store(run: run, kind: .echo, flow: 0, sequence: sequence, to: bytes)
            Glibc.send(socket.descriptor, bytes, options.size, 0)
            var count = recv(socket.descriptor, bytes, 2048, 0)
            // An answer that came after its time is not this request's.
            while count > 0, bytes.load(fromByteOffset: 8, as: UInt64.self) != sequence {
                count = recv(socket.descriptor, bytes, 2048, 0)
            }
            let now = nanosecondsNow()
            if count > 0 { histogram.record(now - sentAt) } else { lost += 1 }
            sentAt = now
        }
        return histogram.json(lost: lost, seconds: Double(sentAt - start) * 1e-9)
    }

    /// A request's time begins when it was due, which its sequence number tells.
    private func paced(_ socket: borrowing Socket, _ bytes: UnsafeMutableRawPointer) -> String {
        let run = UInt32.random(in: 1...UInt32.max)
        let nanoseconds = interval * 1000
        let requests = max(UInt64(seconds * 1e9) / nanoseconds, 1)
        var histogram = RoundTrip.emptyHistogram()
        var sent: UInt64 = 0
        let start = nanosecondsNow()
        let end = start + requests * nanoseconds + UInt64(RoundTrip.patienceMilliseconds) * 1_000_000
        var now = start
        while now < end, histogram.totalCount < requests {
            if sent < requests, now >= start + sent * nanoseconds {
                Datagram.store(run: run, kind: .echo, flow: 0, sequence: sent, to: bytes)
                Glibc.send(socket.descriptor, bytes, options.size, 0)
                sent += 1
            }
            let due = sent < requests ? start + sent * nanoseconds : end
            socket.waitToReceive(nanoseconds: due > now ? due - now : 0)
            now = nanosecondsNow()
            while recv(socket.descriptor, bytes, 2048, Int32(MSG_DONTWAIT)) > 0 {
                let sequence = bytes.load(fromByteOffset: 8, as: UInt64.self)
                if bytes.load(as: UInt32.self) == run {
                    histogram.record(now - (start + sequence * nanoseconds))
                }
            }
        }
        let lost = Int(requests) - Int(histogram.totalCount)
        return histogram.json(lost: lost, seconds: Double(now - start) * 1e-9)
    }
}

/// Opens TCP connections one after another.
struct Connect: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Times TCP connects, one at a time.")

    @Option(help: "Address and port of `traffic receive`.", transform: parseEndpoint)
    var to: Endpoint

    @Option(help: "Seconds to go on.")
    var seconds: Double = 2

    func run() throws {
        var histogram = Histogram<UInt64>(
            highestTrackableValue: 10_000_000_000, numberOfSignificantValueDigits: .three)
        var lost = 0
        let start = nanosecondsNow()
        let end = start + UInt64(seconds * 1e9)
        var now = start
        while now < end {
            let began = now
            let socket = try Socket(.stream)
            // Closes with RST: thousands of connections a second would use up the ports in TIME_WAIT.
            var reset = linger(l_onoff: 1, l_linger: 0)
            setsockopt(
                socket.descriptor, SOL_SOCKET, SO_LINGER, &reset, socklen_t(MemoryLayout<linger>.size))
            let result = SocketAddress(to).withPointer { Glibc.connect(socket.descriptor, $0, $1) }
            now = nanosecondsNow()
            if result == 0 { histogram.record(now - began) } else { lost += 1 }
        }
        print(histogram.json(lost: lost, seconds: Double(now - start) * 1e-9))
    }
}

extension Histogram where Count == UInt64 {
    /// The percentiles in microseconds, and how many there were a second.
    func json(lost: Int, seconds: Double) -> String {
        func microseconds(_ percentile: Double) -> Double {
            Double(valueAtPercentile(percentile)) / 1000
        }
        return """
            {"count":\(totalCount),"lost":\(lost),"per_second":\(Double(totalCount) / seconds),\
            "p50_us":\(microseconds(50)),"p90_us":\(microseconds(90)),"p99_us":\(microseconds(99)),\
            "p99_9_us":\(microseconds(99.9)),"max_us":\(microseconds(100))}
            """
    }
}
