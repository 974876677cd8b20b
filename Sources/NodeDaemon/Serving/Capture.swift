import Addresses
import Counters
import FoundationEssentials
import Glibc
import Synchronization
import Telemetry
import Worker

/// A capture that goes on: what the workers copied, in the form that was asked for. It follows the daemon from one data
/// plane to the next. One at a time; ended, or forgotten, it stops the copying.
final class Capture: Sendable {
    /// What is captured from: the data plane there is, what its device is called, and this node's end of the underlay.
    typealias Source = @Sendable () -> (dataPlane: DataPlane, interface: String, endpoint: Endpoint)?

    private struct State {
        var dataPlane: DataPlane?
        var missedBefore: UInt64 = 0
        var missed: UInt64 = 0
        var hasBegun = false
    }

    private let request: CaptureRequest
    private let source: Source
    private let ended: @Sendable () -> Void
    private let clockOffsetNanoseconds: Int64
    private let state = Mutex(State())

    /// - Parameters:
    ///   - source: asked each time for what there is.
    ///   - ended: called once, when the capture has ended.
    init(_ request: CaptureRequest, of source: @escaping Source, ended: @escaping @Sendable () -> Void) {
        self.request = request
        self.source = source
        self.ended = ended
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        let now = Int64(time.tv_sec) &* 1_000_000_000 &+ Int64(time.tv_nsec)
        clockOffsetNanoseconds = now &- Int64(bitPattern: monotonicNanoseconds())
    }

    deinit {
        state.withLock { $0.dataPlane }?.capture(nil)
        ended()
    }

    /// What kind of answer it is.
    var contentType: String {
        switch request.form {
        case .pcapng: "application/x-pcapng"
        case .text: "text/plain; charset=utf-8"
        case .json: "application/x-ndjson"
        }
    }

    /// What was captured since the last call; the first call begins.
    func next() -> [UInt8] {
        guard let (dataPlane, interface, endpoint) = source() else { return [] }
        let file = CaptureFile(
            interface: interface, endpoint: endpoint, clockOffsetNanoseconds: clockOffsetNanoseconds)
        var bytes: [UInt8] = []
        state.withLock { state in
            if state.dataPlane !== dataPlane {
                state.dataPlane?.capture(nil)
                state.dataPlane = dataPlane
                state.missedBefore = dataPlane.missedCopies
                dataPlane.capture(request.filter)
            }
            if !state.hasBegun, request.form == .pcapng {
                bytes += file.head(application: "twilld \(Version.text)")
            }
            state.hasBegun = true
        }
        for copy in dataPlane.takeCopies() { bytes += self.bytes(of: copy, file) }
        let missed = dataPlane.missedCopies
        let news: UInt64? = state.withLock { state in
            let since = missed &- state.missedBefore
            guard since > 0 else { return nil }
            state.missedBefore = missed
            state.missed &+= since
            return state.missed
        }
        if let news { bytes += told(missed: news, file) }
        return bytes
    }

    private func bytes(of copy: PacketCopy, _ file: CaptureFile) -> [UInt8] {
        switch request.form {
        case .pcapng: return file.block(copy)
        case .text: return Array((copy.line(time: timeOfDay(copy)) + "\n").utf8)
        case .json:
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
            let document = CapturedPacket(copy, unixNanoseconds: unixNanoseconds(copy))
            return (try? encoder.encode(document)).map { Array($0) + [UInt8(ascii: "\n")] } ?? []
        }
    }

    private func told(missed: UInt64, _ file: CaptureFile) -> [UInt8] {
        switch request.form {
        case .pcapng:
            file.statistics(missed: missed, nanoseconds: monotonicNanoseconds())
        case .text: Array("(\(missed) packets were not captured: they came too fast)\n".utf8)
        case .json: Array("{\"missedPackets\":\(missed),\"schema\":\(NodeStatus.schemaVersion)}\n".utf8)
        }
    }

    private func unixNanoseconds(_ copy: PacketCopy) -> Int64 {
        Int64(bitPattern: copy.nanoseconds) &+ clockOffsetNanoseconds
    }

    /// `12:34:56.123456`, by this machine's time zone.
    private func timeOfDay(_ copy: PacketCopy) -> String {
        let nanoseconds = unixNanoseconds(copy)
        var seconds = time_t(nanoseconds / 1_000_000_000)
        var parts = tm()
        localtime_r(&seconds, &parts)
        func padded(_ number: Int64, _ width: Int) -> String {
            let digits = "\(number)"
            return String(repeating: "0", count: max(0, width - digits.count)) + digits
        }
        return [parts.tm_hour, parts.tm_min, parts.tm_sec].map { padded(Int64($0), 2) }.joined(separator: ":")
            + "." + padded(nanoseconds % 1_000_000_000 / 1_000, 6)
    }
}

/// A captured packet as a JSON object.
private struct CapturedPacket: Encodable {
    let schema = NodeStatus.schemaVersion
    let unixSeconds: Double
    let point: String
    let reason: String?
    let packet: String
    let length: Int
    let source: String?
    let destination: String?
    let sourcePort: UInt16?
    let destinationPort: UInt16?
    let peer: String?

    init(_ copy: PacketCopy, unixNanoseconds: Int64) {
        let words = PacketWords(copy.bytes)
        unixSeconds = Double(unixNanoseconds) / 1e9
        point = "\(copy.point)"
        reason = copy.reason?.name
        packet = words.text
        length = copy.length
        source = words.source.map { "\($0)" }
        destination = words.destination.map { "\($0)" }
        sourcePort = words.sourcePort
        destinationPort = words.destinationPort
        peer = copy.peer.map { "\($0)" }
    }
}
