import Synchronization

/// The last packets that one worker dropped for each reason: written by that worker's thread alone, read by anybody at
/// any time.
///
/// A block is a reference, as `CounterBlock` is. A record has a sequence number before it, odd while it is being
/// written, so that a reader finds out whether it read one whole.
public struct DropRecords: @unchecked Sendable {
    /// How many packets are kept of each reason, the last ones.
    public static let recordsOfReason = 4
    /// Bytes that are kept of each packet: the headers as far as the ports, of IPv6 too.
    public static let headBytes = 48
    /// Bytes of a socket's name: of whoever sent the packet over the underlay, or whom it was sent to.
    public static let nameBytes = 32

    // Words of a record: sequence, time, length, name, head; up to two cache lines.
    private static let timeWord = 1
    private static let lengthWord = 2
    private static let nameWord = 3
    private static let headWord = 7
    private static let recordWords = 16
    private static let reasonWords = recordsOfReason * recordWords
    // 46 KiB, of which nothing is touched before a packet is dropped.
    private static let wordCount = Counter.allCases.count * reasonWords

    private let words: UnsafeMutablePointer<Atomic<UInt64>>

    private init(words: UnsafeMutablePointer<Atomic<UInt64>>) { self.words = words }

    /// Makes a block without records.
    public static func allocate() -> DropRecords {
        let memory = UnsafeMutableRawPointer.allocate(
            byteCount: wordCount * MemoryLayout<Atomic<UInt64>>.stride, alignment: 128)
        let words = memory.bindMemory(to: Atomic<UInt64>.self, capacity: wordCount)
        for index in 0..<wordCount { (words + index).initialize(to: Atomic(0)) }
        return DropRecords(words: words)
    }

    /// Frees the memory; neither the writer nor a reader may use the block any more.
    public func deallocate() {
        words.deinitialize(count: DropRecords.wordCount)
        UnsafeMutableRawPointer(words).deallocate()
    }

    /// Keeps a packet's head in the place of the oldest of its reason. For the block's one writer.
    ///
    /// - Parameters:
    ///   - reason: why it was dropped.
    ///   - packet: its first byte.
    ///   - contiguous: bytes that lie there in one piece.
    ///   - length: bytes of it; 0 where there are none.
    ///   - name: a socket's name, `nameBytes`, of the other side of the underlay; nil where there is none yet.
    ///   - number: how many of the reason were dropped before.
    ///   - time: nanoseconds of the monotonic clock.
    @inline(never)
    public func keep(
        _ reason: Counter, _ packet: UnsafeRawPointer, contiguous: Int, length: Int,
        name: UnsafeRawPointer?, number: UInt64, atNanoseconds time: Int
    ) {
        let place = Int(truncatingIfNeeded: number % UInt64(DropRecords.recordsOfReason))
        let record =
            words + (reason.rawValue &* DropRecords.reasonWords &+ place &* DropRecords.recordWords)
        let sequence = record.pointee.load(ordering: .relaxed)
        record.pointee.store(sequence &+ 1, ordering: .relaxed)
        atomicMemoryFence(ordering: .releasing)
        record[DropRecords.timeWord].store(UInt64(truncatingIfNeeded: time), ordering: .relaxed)
        record[DropRecords.lengthWord].store(UInt64(truncatingIfNeeded: max(length, 0)), ordering: .relaxed)
        DropRecords.copy(
            name, bytes: name == nil ? 0 : DropRecords.nameBytes, to: record + DropRecords.nameWord,
            words: DropRecords.nameBytes / 8)
        DropRecords.copy(
            packet, bytes: min(max(min(length, contiguous), 0), DropRecords.headBytes),
            to: record + DropRecords.headWord,
            words: DropRecords.headBytes / 8)
        record.pointee.store(sequence &+ 2, ordering: .releasing)
    }

    /// Copies bytes into words, and fills up with zeros.
    @inline(__always)
    private static func copy(
        _ source: UnsafeRawPointer?, bytes: Int, to words: UnsafeMutablePointer<Atomic<UInt64>>,
        words count: Int
    ) {
        var index = 0
        while index < count {
            var word: UInt64 = 0
            let first = index &* 8
            if let source, first &+ 8 <= bytes {
                word = source.loadUnaligned(fromByteOffset: first, as: UInt64.self)
            } else if let source {
                var offset = first
                while offset < bytes {
                    let byte = UInt64(source.load(fromByteOffset: offset, as: UInt8.self))
                    word |= byte << UInt64(truncatingIfNeeded: (offset &- first) &* 8)
                    offset &+= 1
                }
            }
            words[index].store(word.littleEndian, ordering: .relaxed)
            index &+= 1
        }
    }

    /// The last packets that were dropped for a reason, the newest first.
    public subscript(_ reason: Counter) -> [DroppedPacket] {
        (0..<DropRecords.recordsOfReason).compactMap { record(of: reason, at: $0) }
            .sorted { $0.nanoseconds > $1.nanoseconds }
    }

    /// A record; nil where there is none, and where it was written while it was read.
    private func record(of reason: Counter, at place: Int) -> DroppedPacket? {
        let record =
            words + (reason.rawValue * DropRecords.reasonWords + place * DropRecords.recordWords)
        let sequence = record.pointee.load(ordering: .acquiring)
        guard sequence != 0, sequence % 2 == 0 else { return nil }
        func bytes(_ first: Int, _ count: Int) -> [UInt8] {
            (0..<count / 8).flatMap { index in
                let word = record[first + index].load(ordering: .relaxed)
                return (0..<8).map { UInt8(truncatingIfNeeded: word >> UInt64($0 * 8)) }
            }
        }
        let length = Int(truncatingIfNeeded: record[DropRecords.lengthWord].load(ordering: .relaxed))
        let packet = DroppedPacket(
            reason: reason, nanoseconds: record[DropRecords.timeWord].load(ordering: .relaxed),
            length: length,
            head: Array(bytes(DropRecords.headWord, DropRecords.headBytes).prefix(max(length, 0))),
            socketName: bytes(DropRecords.nameWord, DropRecords.nameBytes))
        atomicMemoryFence(ordering: .acquiring)
        return record.pointee.load(ordering: .relaxed) == sequence ? packet : nil
    }
}

/// A packet that was dropped, as far as it was kept.
public struct DroppedPacket: Sendable, Equatable {
    /// Why it was dropped.
    public let reason: Counter
    /// When, nanoseconds of the monotonic clock.
    public let nanoseconds: UInt64
    /// Bytes that it had.
    public let length: Int
    /// The first of them, `DropRecords.headBytes` at most.
    public let head: [UInt8]
    /// A socket's name, of the other side of the underlay; zeros where there is none.
    public let socketName: [UInt8]

    /// Makes a packet.
    public init(reason: Counter, nanoseconds: UInt64, length: Int, head: [UInt8], socketName: [UInt8]) {
        self.reason = reason
        self.nanoseconds = nanoseconds
        self.length = length
        self.head = head
        self.socketName = socketName
    }
}
