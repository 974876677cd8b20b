import Addresses
import Counters
import Glibc

/// Whether packets are kept for people, and timed: always, but in a build that shows what that costs
/// (`TWILL_WITHOUT_RECORDS`, Package.swift).
@inline(__always)
var keepsRecords: Bool {
    #if TWILL_WITHOUT_RECORDS
        false
    #else
        true
    #endif
}

/// What one worker keeps of packets for people, beside the counters: the last ones that it dropped, and copies of those
/// that somebody captures.
public struct WorkerRecords: Sendable {
    /// The last packets that were dropped for each reason.
    public let drops: DropRecords
    /// The packets that are captured.
    public let copies: PacketCopies

    /// Makes both, without contents.
    public static func allocate() -> WorkerRecords {
        WorkerRecords(drops: .allocate(), copies: .allocate())
    }

    /// Frees both; neither the worker nor a reader may use them any more.
    public func deallocate() {
        drops.deallocate()
        copies.deallocate()
    }
}

// What happens off the path of packets that arrive: each of these is called where something was dropped, or while
// somebody captures.
extension Worker where Engine: ~Copyable {
    /// Counts packets that are lost, and keeps the first of them.
    ///
    /// - Parameters:
    ///   - reason: why.
    ///   - point: on the way out or in.
    ///   - count: how many.
    ///   - vectors: what the first is gathered from, its headers in the first of them.
    ///   - skipped: bytes before it in the first vector.
    ///   - length: bytes of the first.
    ///   - name: the socket's name of the other side of the underlay; nil where there is none.
    @inline(never)
    mutating func noteDrop(
        _ reason: Counter, _ point: CapturePoint, count: Int = 1, from vectors: UnsafePointer<iovec>,
        skipping skipped: Int = 0, length: Int, name: UnsafeRawPointer? = nil
    ) {
        guard count > 0 else { return }
        let number = counters[reason]
        counters.add(reason, count)
        // What is of the link alone is counted, and no loss.
        guard keepsRecords, reason != .outboundIgnored, let base = vectors.pointee.iov_base else { return }
        let contiguous = vectors.pointee.iov_len &- skipped
        records.drops.keep(
            reason, base + skipped, contiguous: contiguous, length: length, name: name, number: number,
            atNanoseconds: workBeganNanoseconds)
        guard isCapturing else { return }
        records.copies.copy(
            point, reason: reason, from: vectors, skipping: skipped, length: length, name: name,
            atNanoseconds: workBeganNanoseconds)
    }

    /// The same for a packet that lies in one piece.
    @inline(never)
    mutating func noteDrop(
        _ reason: Counter, _ point: CapturePoint, count: Int = 1, _ packet: UnsafeMutableRawPointer,
        length: Int,
        name: UnsafeRawPointer? = nil
    ) {
        var vector = iovec(iov_base: packet, iov_len: max(length, 0))
        noteDrop(reason, point, count: count, from: &vector, length: max(length, 0), name: name)
    }

    /// Copies a packet that lies in one piece for a capture.
    @inline(never)
    mutating func capture(
        _ point: CapturePoint, _ packet: UnsafeMutableRawPointer, length: Int, name: UnsafeRawPointer? = nil
    ) {
        var vector = iovec(iov_base: packet, iov_len: max(length, 0))
        records.copies.copy(
            point, from: &vector, length: length, name: name, atNanoseconds: workBeganNanoseconds)
    }

    /// Copies the datagrams of a message that is about to be sent for a capture.
    @inline(never)
    mutating func captureSent(_ message: Int) {
        let entry = messages.entries[message]
        let vectors = messages.vectors(message)
        var segment = 0
        while segment < entry.segmentCount {
            let isLast = segment &+ 1 == entry.segmentCount
            let before = segment &* entry.segmentBytes
            records.copies.copy(
                .underlaySent, from: vectors + segment &* entry.vectorsPerSegment,
                length: isLast ? entry.byteCount &- before : entry.segmentBytes,
                name: memory.messages[message].msg_name, atNanoseconds: workBeganNanoseconds)
            segment &+= 1
        }
    }

    /// Notes that packets of a message are lost, and keeps the first of them.
    @inline(never)
    mutating func noteDrop(_ reason: Counter, ofMessage message: Int, count: Int) {
        let entry = messages.entries[message]
        noteDrop(
            reason, .droppedOutbound, count: count, from: messages.vectors(message),
            length: min(entry.segmentBytes, entry.byteCount), name: memory.messages[message].msg_name)
    }
}
