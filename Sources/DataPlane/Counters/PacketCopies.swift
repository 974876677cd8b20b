// How it works. A capture is a filter that the control side sets, and a ring of slots that the worker copies packets
// into and the control side takes them out of. While there is no filter the worker looks at one word a round, and at one
// bit for each packet; the slots are memory that was never touched. Where the ring is full a packet is not copied, and
// counted: a capture holds up nothing.

import Glibc
import Synchronization

/// Where a packet was when it was copied.
public enum CapturePoint: UInt8, CaseIterable, Sendable {
    /// Read from the TUN device: from a pod, before the tunnel.
    case tunnelRead
    /// Sent to a peer: one datagram's payload.
    case underlaySent
    /// Received from a peer: one datagram's payload.
    case underlayReceived
    /// Written to the TUN device: to a pod, after the tunnel.
    case tunnelWritten
    /// Dropped on the way out.
    case droppedOutbound
    /// Dropped on the way in.
    case droppedInbound

    /// Whether the packet was lost there.
    public var isDrop: Bool { self == .droppedOutbound || self == .droppedInbound }
}

/// Which packets are to be copied.
public struct CaptureFilter: Sendable, Equatable {
    /// Only those that were dropped.
    public var isOfDropsAlone = false
    /// Only those from or to this inner address, as it lies in the header: 4 or 16 bytes; empty for all.
    public var host: [UInt8] = []
    /// Only those from or to this address on the underlay, 4 or 16 bytes; empty for all.
    public var peer: [UInt8] = []
    /// Bytes to be copied of each, `PacketCopies.packetBytes` at most.
    public var snapLength = PacketCopies.packetBytes

    /// A filter that lets everything through.
    public init() {}
}

/// The packets that one worker copied for a capture: written by that worker's thread alone, read by one reader.
public struct PacketCopies: @unchecked Sendable {
    /// Bytes of a packet that fit into a slot. A datagram of an underlay of 1,500 bytes is copied whole, a super-packet
    /// is not.
    public static let packetBytes = slotBytes - headBytes
    /// Packets that wait for the reader at most: a worker that moves 600,000 a second fills them in 3 ms.
    public static let slotCount = 2_048

    // 4 MiB for each worker, touched while something is captured alone.
    private static let slotBytes = 2_048
    // time, length, copied | point << 32 | reason << 40, the socket's name
    private static let headBytes = 56
    private static let nameOffset = 24
    private static let nameBytes = 32
    // Words of the control block, each part with one writer in cache lines of its own: the filter; what the worker
    // counts; what the reader counts.
    private static let modeWord = 0
    private static let snapWord = 1
    private static let hostWord = 2
    private static let peerWord = 4
    private static let writtenWord = 16
    private static let missedWord = 17
    private static let readWord = 32
    private static let controlWords = 48
    // The mode: a capture goes on, of drops alone, of one host, of one peer.
    private static let isOn: UInt64 = 1
    private static let isOfDrops: UInt64 = 2
    private static let hasHost4: UInt64 = 4
    private static let hasHost6: UInt64 = 8
    private static let hasPeer4: UInt64 = 16
    private static let hasPeer6: UInt64 = 32

    private let control: UnsafeMutablePointer<Atomic<UInt64>>
    private let slots: UnsafeMutableRawPointer

    private init(control: UnsafeMutablePointer<Atomic<UInt64>>, slots: UnsafeMutableRawPointer) {
        self.control = control
        self.slots = slots
    }

    /// Reserves the slots. The kernel gives them pages when something is copied.
    public static func allocate() -> PacketCopies {
        let slots = UnsafeMutableRawPointer.allocate(byteCount: slotCount * slotBytes, alignment: 4_096)
        let memory = UnsafeMutableRawPointer.allocate(
            byteCount: controlWords * MemoryLayout<Atomic<UInt64>>.stride, alignment: 128)
        let control = memory.bindMemory(to: Atomic<UInt64>.self, capacity: controlWords)
        for index in 0..<controlWords { (control + index).initialize(to: Atomic(0)) }
        return PacketCopies(control: control, slots: slots)
    }

    /// Frees everything; neither the worker nor the reader may use it any more.
    public func deallocate() {
        slots.deallocate()
        control.deinitialize(count: PacketCopies.controlWords)
        UnsafeMutableRawPointer(control).deallocate()
    }

    // MARK: The reader

    /// Begins a capture, or with nil ends it. The worker follows with its next round.
    public func set(_ filter: CaptureFilter?) {
        guard let filter else {
            control[PacketCopies.modeWord].store(0, ordering: .releasing)
            return
        }
        // What was left of a capture before is not of this one.
        control[PacketCopies.readWord].store(
            control[PacketCopies.writtenWord].load(ordering: .acquiring), ordering: .releasing)
        var mode = PacketCopies.isOn | (filter.isOfDropsAlone ? PacketCopies.isOfDrops : 0)
        mode |=
            filter.host.count == 4
            ? PacketCopies.hasHost4 : filter.host.count == 16 ? PacketCopies.hasHost6 : 0
        mode |=
            filter.peer.count == 4
            ? PacketCopies.hasPeer4 : filter.peer.count == 16 ? PacketCopies.hasPeer6 : 0
        for (first, address) in [(PacketCopies.hostWord, filter.host), (PacketCopies.peerWord, filter.peer)] {
            for word in 0..<2 {
                let bytes = address.dropFirst(word * 8).prefix(8)
                let value = bytes.enumerated().reduce(UInt64(0)) {
                    $0 | UInt64($1.element) << UInt64($1.offset * 8)
                }
                control[first + word].store(value, ordering: .relaxed)
            }
        }
        let snapLength = max(0, min(filter.snapLength, PacketCopies.packetBytes))
        control[PacketCopies.snapWord].store(UInt64(snapLength), ordering: .relaxed)
        control[PacketCopies.modeWord].store(mode, ordering: .releasing)
    }

    /// How many packets found no free slot since the worker was made.
    public var missed: UInt64 { control[PacketCopies.missedWord].load(ordering: .relaxed) }

    /// Takes what has been copied, in order.
    public func drain(_ body: (PacketCopy) -> Void) {
        let written = control[PacketCopies.writtenWord].load(ordering: .acquiring)
        var read = control[PacketCopies.readWord].load(ordering: .relaxed)
        while read != written {
            let slot = slots + Int(read % UInt64(PacketCopies.slotCount)) * PacketCopies.slotBytes
            let facts = slot.load(fromByteOffset: 16, as: UInt64.self)
            let copied = Int(facts & 0xFFFF_FFFF)
            let reason = Counter(rawValue: Int(facts >> 40 & 0xFFFF))
            let point = CapturePoint(rawValue: UInt8(truncatingIfNeeded: facts >> 32)) ?? .tunnelRead
            body(
                PacketCopy(
                    nanoseconds: slot.load(as: UInt64.self), point: point,
                    reason: point.isDrop ? reason : nil,
                    length: Int(truncatingIfNeeded: slot.load(fromByteOffset: 8, as: UInt64.self)),
                    bytes: Array(
                        UnsafeRawBufferPointer(
                            start: slot + PacketCopies.headBytes, count: min(copied, PacketCopies.packetBytes)
                        )),
                    socketName: Array(
                        UnsafeRawBufferPointer(
                            start: slot + PacketCopies.nameOffset, count: PacketCopies.nameBytes))))
            read &+= 1
            control[PacketCopies.readWord].store(read, ordering: .releasing)
        }
    }

    // MARK: The worker

    /// Whether anything is to be copied: to be asked once a round.
    @inline(__always)
    public var isWanted: Bool { control.pointee.load(ordering: .acquiring) != 0 }

    /// Copies a packet, where the filter lets it through and there is a slot. For the one worker.
    ///
    /// - Parameters:
    ///   - point: where the packet is.
    ///   - reason: why it is dropped, where it is.
    ///   - vectors: what it is gathered from, its headers in the first of them.
    ///   - skipped: bytes before it in the first vector.
    ///   - length: bytes of it.
    ///   - name: a socket's name, of the other side of the underlay; nil where there is none.
    ///   - time: nanoseconds of the monotonic clock.
    @inline(never)
    public func copy(
        _ point: CapturePoint, reason: Counter? = nil, from vectors: UnsafePointer<iovec>,
        skipping skipped: Int = 0,
        length: Int, name: UnsafeRawPointer?, atNanoseconds time: Int
    ) {
        let mode = control.pointee.load(ordering: .relaxed)
        guard length >= 0, mode != 0, mode & PacketCopies.isOfDrops == 0 || point.isDrop,
            admits(vectors.pointee, skipping: skipped, length: length, mode: mode),
            mode & (PacketCopies.hasPeer4 | PacketCopies.hasPeer6) == 0
                || name.map({ isPeer($0, mode: mode) }) ?? false
        else { return }
        let written = control[PacketCopies.writtenWord].load(ordering: .relaxed)
        let read = control[PacketCopies.readWord].load(ordering: .acquiring)
        guard written &- read < UInt64(PacketCopies.slotCount) else {
            CounterBlock.add(1, to: control + PacketCopies.missedWord)
            return
        }
        let place = Int(truncatingIfNeeded: written % UInt64(PacketCopies.slotCount))
        let slot = slots + place &* PacketCopies.slotBytes
        slot.storeBytes(of: UInt64(truncatingIfNeeded: time), as: UInt64.self)
        slot.storeBytes(of: UInt64(truncatingIfNeeded: length), toByteOffset: 8, as: UInt64.self)
        let snap = Int(truncatingIfNeeded: control[PacketCopies.snapWord].load(ordering: .relaxed))
        let copied = PacketCopies.gather(
            vectors, skipping: skipped, count: min(length, snap), to: slot + PacketCopies.headBytes)
        let facts =
            UInt64(truncatingIfNeeded: copied) | UInt64(point.rawValue) << 32
            | UInt64(truncatingIfNeeded: reason?.rawValue ?? 0) << 40
        slot.storeBytes(of: facts, toByteOffset: 16, as: UInt64.self)
        if let name {
            (slot + PacketCopies.nameOffset).copyMemory(from: name, byteCount: PacketCopies.nameBytes)
        } else {
            memset(slot + PacketCopies.nameOffset, 0, PacketCopies.nameBytes)
        }
        control[PacketCopies.writtenWord].store(written &+ 1, ordering: .releasing)
    }

    /// Gathers bytes.
    ///
    /// - Returns: how many there were, `count` at most.
    @inline(__always)
    private static func gather(
        _ vectors: UnsafePointer<iovec>, skipping skipped: Int, count: Int, to target: UnsafeMutableRawPointer
    ) -> Int {
        var copied = 0
        var index = 0
        while copied < count {
            let vector = vectors[index]
            let offset = index == 0 ? skipped : 0
            let bytes = min(vector.iov_len &- offset, count &- copied)
            if bytes > 0, let base = vector.iov_base {
                (target + copied).copyMemory(from: base + offset, byteCount: bytes)
                copied &+= bytes
            }
            index &+= 1
        }
        return copied
    }

    /// Whether a packet's inner source or destination is the host that is asked for, where one is.
    @inline(__always)
    private func admits(_ first: iovec, skipping skipped: Int, length: Int, mode: UInt64) -> Bool {
        guard mode & (PacketCopies.hasHost4 | PacketCopies.hasHost6) != 0 else { return true }
        guard let base = first.iov_base.map({ $0 + skipped }), length >= 20,
            first.iov_len &- skipped >= 20
        else { return false }
        let low = control[PacketCopies.hostWord].load(ordering: .relaxed)
        if mode & PacketCopies.hasHost4 != 0 {
            let host = UInt32(truncatingIfNeeded: low)
            return base.load(as: UInt8.self) >> 4 == 4
                && (base.loadUnaligned(fromByteOffset: 12, as: UInt32.self).littleEndian == host
                    || base.loadUnaligned(fromByteOffset: 16, as: UInt32.self).littleEndian == host)
        }
        let high = control[PacketCopies.hostWord &+ 1].load(ordering: .relaxed)
        func has(_ offset: Int) -> Bool {
            base.loadUnaligned(fromByteOffset: offset, as: UInt64.self).littleEndian == low
                && base.loadUnaligned(fromByteOffset: offset &+ 8, as: UInt64.self).littleEndian == high
        }
        return base.load(as: UInt8.self) >> 4 == 6 && length >= 40
            && first.iov_len &- skipped >= 40 && (has(8) || has(24))
    }

    /// Whether a socket's name has the address of the peer that is asked for.
    @inline(__always)
    private func isPeer(_ name: UnsafeRawPointer, mode: UInt64) -> Bool {
        let low = control[PacketCopies.peerWord].load(ordering: .relaxed)
        let family = Int32(name.load(as: UInt16.self))
        if mode & PacketCopies.hasPeer4 != 0 {
            return family == AF_INET
                && name.load(fromByteOffset: 4, as: UInt32.self).littleEndian
                    == UInt32(truncatingIfNeeded: low)
        }
        let high = control[PacketCopies.peerWord &+ 1].load(ordering: .relaxed)
        return family == AF_INET6
            && name.loadUnaligned(fromByteOffset: 8, as: UInt64.self).littleEndian == low
            && name.loadUnaligned(fromByteOffset: 16, as: UInt64.self).littleEndian == high
    }
}

/// A packet that was copied for a capture.
public struct PacketCopy: Sendable, Equatable {
    /// When, nanoseconds of the monotonic clock.
    public let nanoseconds: UInt64
    /// Where it was.
    public let point: CapturePoint
    /// Why it was dropped; nil where it was not.
    public let reason: Counter?
    /// Bytes that it has.
    public let length: Int
    /// The first of them, as many as were asked for.
    public let bytes: [UInt8]
    /// A socket's name, of the other side of the underlay; zeros where there is none.
    public let socketName: [UInt8]

    /// Makes a copy.
    public init(
        nanoseconds: UInt64, point: CapturePoint, reason: Counter?, length: Int, bytes: [UInt8],
        socketName: [UInt8]
    ) {
        self.nanoseconds = nanoseconds
        self.point = point
        self.reason = reason
        self.length = length
        self.bytes = bytes
        self.socketName = socketName
    }
}
