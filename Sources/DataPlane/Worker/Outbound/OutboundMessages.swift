// How it works. A message is one send: a peer, up to 128 segments gathered from memory, and, where there are two
// segments or more, the control message that says their size. A segment takes one vector (a packet read whole) or two
// (header and payload of a super-packet's segment; where both kinds share a message, a whole packet's second is
// empty). A message is free, open (more packets for the same peer may join), or sealed (in the order in which it will
// be queued), or with the engine. The tunnel buffers that it gathers from are kept by counts until its send has
// ended.

import Addresses
import CLinux
import Engines
import Forwarding
import Glibc
import Offload

/// The sends that a worker prepares, and which tunnel buffers they still need.
struct OutboundMessages: ~Copyable {
    /// What a message is made of, beside its `msghdr`.
    struct Entry {
        /// The peer's place in the snapshot that the message was taken under. A message is open under that one alone
        /// (`sealAll` when another comes), so that places of two snapshots never meet.
        var peer = 0
        /// Where what is sent to the peer is counted, whatever snapshot there is by then.
        var counterSlot: UInt16 = 0
        /// Bytes of each segment but the last.
        var segmentBytes = 0
        var segmentCount = 0
        var vectorsPerSegment = 1
        var byteCount = 0
        var bufferCount = 0
        var openedInRound = 0
        /// Whether it was sent before, and the kernel reported an error that may be about another packet.
        var wasResent = false
        /// Whether the kernel refused to send its segments together, and each that was sent alone since then passed.
        var refusalIsEvidence = false
        /// The message whose segment this one sends again, without segmentation; else -1.
        var retryOf = -1
        /// Segments of this message that are being replayed.
        var replaysPending = 0
        /// The first segment that has not been replayed yet.
        var nextReplay = 0
    }

    static let vectorsPerMessage = 2 * SuperPacketLimits.sendSegments
    static let arenaBytes = SuperPacketLimits.sendSegments * SegmentPlan.headerStride

    private let memory: PacketMemory
    let entries: UnsafeMutablePointer<Entry>
    /// The peers' socket names, `SocketName.room` bytes each.
    private let names: UnsafeMutableRawPointer
    private let controls: UnsafeMutableRawPointer
    private let vectors: UnsafeMutablePointer<iovec>
    private let arenas: UnsafeMutableRawPointer
    private let buffers: UnsafeMutablePointer<UInt16>
    private let bufferUses: UnsafeMutablePointer<UInt16>
    private let free: UnsafeMutablePointer<Int32>
    private(set) var freeCount: Int
    private let freeBuffers: UnsafeMutablePointer<Int32>
    private(set) var freeBufferCount: Int
    let open: UnsafeMutablePointer<Int32>
    private(set) var openCount = 0
    let sealed: UnsafeMutablePointer<Int32>
    private(set) var sealedCount = 0
    /// The message that a buffer was added to last.
    private var lastKeeper = 0
    /// Counts the worker's rounds, to tell what was opened in which.
    var round = 0
    /// When tunnel buffers that are not free were filled.
    var generations: BufferGenerations
    private let bufferOwners: OwnershipLedger<TunnelBufferOwner>
    private let owners: OwnershipLedger<MessageOwner>

    init(_ memory: PacketMemory) {
        let count = memory.messageCount
        self.memory = memory
        generations = BufferGenerations(capacity: memory.tunnelBufferCount)
        bufferOwners = OwnershipLedger("tunnel buffer", count: memory.tunnelBufferCount, owner: .free)
        owners = OwnershipLedger("message", count: count, owner: .free)
        entries = .allocate(capacity: count)
        entries.initialize(repeating: Entry(), count: count)
        names = .allocate(byteCount: count * SocketName.room, alignment: 8)
        names.initializeMemory(as: UInt8.self, repeating: 0, count: count * SocketName.room)
        controls = .allocate(byteCount: count * Int(TWILL_SEGMENT_CONTROL_BYTES), alignment: 8)
        controls.initializeMemory(
            as: UInt8.self, repeating: 0, count: count * Int(TWILL_SEGMENT_CONTROL_BYTES))
        // Some 7 MB with the defaults, which are written before they are read. The kernel gives them pages then, or for
        // `pagesGivenLater`, so that a start waits for none.
        vectors = .allocate(capacity: count * OutboundMessages.vectorsPerMessage)
        arenas = .allocate(byteCount: count * OutboundMessages.arenaBytes, alignment: 64)
        buffers = .allocate(capacity: count * SuperPacketLimits.sendSegments)
        buffers.initialize(repeating: 0, count: count * SuperPacketLimits.sendSegments)
        bufferUses = .allocate(capacity: memory.tunnelBufferCount)
        bufferUses.initialize(repeating: 0, count: memory.tunnelBufferCount)
        // Both free lists are stacks: what was used last is used next, and still in the cache.
        free = .allocate(capacity: count)
        for index in 0..<count { (free + index).initialize(to: Int32(truncatingIfNeeded: count - 1 - index)) }
        freeCount = count
        freeBuffers = .allocate(capacity: memory.tunnelBufferCount)
        for index in 0..<memory.tunnelBufferCount {
            (freeBuffers + index).initialize(
                to: Int32(truncatingIfNeeded: memory.tunnelBufferCount - 1 - index))
        }
        freeBufferCount = memory.tunnelBufferCount
        open = .allocate(capacity: WorkerLimits.openMessages)
        open.initialize(repeating: 0, count: WorkerLimits.openMessages)
        sealed = .allocate(capacity: count)
        sealed.initialize(repeating: 0, count: count)
        for index in 0..<count {
            memory.messages[index].msg_name = names + index * SocketName.room
        }
    }

    /// What has no pages yet.
    var pagesGivenLater: [MemoryPages] {
        let count = memory.messageCount
        return [
            UnsafeRawBufferPointer(
                UnsafeBufferPointer(start: vectors, count: count * OutboundMessages.vectorsPerMessage)),
            UnsafeRawBufferPointer(start: arenas, count: count * OutboundMessages.arenaBytes),
        ].map { MemoryPages($0) }
    }

    deinit {
        entries.deallocate()
        names.deallocate()
        controls.deallocate()
        vectors.deallocate()
        arenas.deallocate()
        buffers.deallocate()
        bufferUses.deallocate()
        free.deallocate()
        freeBuffers.deallocate()
        open.deallocate()
        sealed.deallocate()
    }

    // MARK: Tunnel buffers

    /// Takes a free tunnel buffer for a read; the caller makes sure that there is one.
    @inline(__always)
    mutating func takeBuffer() -> Int {
        assert(freeBufferCount > 0, "no tunnel buffer is free")
        freeBufferCount &-= 1
        let buffer = Int(freeBuffers[freeBufferCount])
        bufferOwners.pass(buffer, from: .free, to: .reading)
        return buffer
    }

    /// Notes that the read into a tunnel buffer has ended.
    @inline(__always)
    mutating func noteRead(into buffer: Int) {
        bufferOwners.pass(buffer, from: .reading, to: .worker)
        generations.noteFilled(buffer)
    }

    /// Gives a tunnel buffer back that no message needs.
    @inline(__always)
    mutating func giveBackBuffer(_ buffer: Int) {
        bufferOwners.pass(buffer, from: .worker, to: .free)
        generations.noteFree(buffer)
        assert(freeBufferCount < memory.tunnelBufferCount && bufferUses[buffer] == 0)
        freeBuffers[freeBufferCount] = Int32(truncatingIfNeeded: buffer)
        freeBufferCount &+= 1
    }

    /// The message that a tunnel buffer was added to last of all, where it was that buffer; nil where the buffer is
    /// free.
    func lastMessage(of buffer: Int) -> Int? { bufferUses[buffer] > 0 ? lastKeeper : nil }

    @inline(__always)
    private mutating func keep(_ buffer: Int, by message: Int) {
        lastKeeper = message
        let count = entries[message].bufferCount
        assert(count < SuperPacketLimits.sendSegments, "a message of too many buffers")
        bufferOwners.pass(buffer, from: bufferUses[buffer] == 0 ? .worker : .messages, to: .messages)
        buffers[message &* SuperPacketLimits.sendSegments &+ count] = UInt16(truncatingIfNeeded: buffer)
        entries[message].bufferCount = count &+ 1
        bufferUses[buffer] &+= 1
    }

    // MARK: Messages

    /// Bytes that headers, or an ICMP error, may be written to for a message.
    @inline(__always)
    func arena(_ message: Int) -> UnsafeMutableRawPointer { arenas + message &* OutboundMessages.arenaBytes }

    @inline(__always)
    func vectors(_ message: Int) -> UnsafeMutablePointer<iovec> {
        vectors + message &* OutboundMessages.vectorsPerMessage
    }

    /// Takes a free message, which becomes the caller's to fill. Nil where none is free.
    @inline(__always)
    private mutating func take() -> Int? {
        guard freeCount > 0 else { return nil }
        freeCount &-= 1
        let message = Int(free[freeCount])
        owners.pass(message, from: .free, to: .worker)
        entries[message] = Entry()
        return message
    }

    /// Takes a free message for a peer of a snapshot, and fills in where it goes. Nil where none is free.
    @inline(__always)
    mutating func take(to peer: ForwardingSnapshot.PeerIndex, of snapshot: ForwardingSnapshot) -> Int? {
        guard let message = take() else { return nil }
        entries[message].peer = peer
        entries[message].counterSlot = snapshot.counterSlot(peer)
        let length = snapshot.endpoint(peer).writeSocketName(to: names + message &* SocketName.room)
        memory.messages[message].msg_namelen = socklen_t(truncatingIfNeeded: length)
        return message
    }

    /// Takes a free message to where another goes, whatever snapshot that was taken under. Nil where none is free.
    mutating func take(toPeerOf other: Int) -> Int? {
        guard let message = take() else { return nil }
        entries[message].peer = entries[other].peer
        entries[message].counterSlot = entries[other].counterSlot
        (names + message &* SocketName.room).copyMemory(
            from: names + other &* SocketName.room, byteCount: SocketName.room)
        memory.messages[message].msg_namelen = memory.messages[other].msg_namelen
        return message
    }

    /// The open message to a peer of the current snapshot.
    @inline(__always)
    func openMessage(to peer: ForwardingSnapshot.PeerIndex) -> Int? {
        var place = openCount
        while place > 0 {
            place &-= 1
            let message = Int(open[place])
            if entries[message].peer == peer { return message }
        }
        return nil
    }

    /// Opens a message for more packets; the one that has been open longest is sealed where too many are.
    @inline(__always)
    mutating func markOpen(_ message: Int) {
        if openCount == WorkerLimits.openMessages { seal(Int(open[0])) }
        owners.pass(message, from: .worker, to: .open)
        open[openCount] = Int32(truncatingIfNeeded: message)
        openCount &+= 1
        entries[message].openedInRound = round
    }

    /// Adds a whole packet as one more segment of a message that has room for it, or that is new.
    @inline(__always)
    mutating func append(_ packet: UnsafeMutableRawPointer, length: Int, in buffer: Int, to message: Int) {
        let count = entries[message].segmentCount
        assert(count < SuperPacketLimits.sendSegments && length > 0)
        if count == 0 { entries[message].segmentBytes = length }
        let width = entries[message].vectorsPerSegment
        vectors(message)[count &* width] = iovec(iov_base: packet, iov_len: length)
        if width == 2 { vectors(message)[count &* 2 &+ 1] = iovec(iov_base: packet, iov_len: 0) }
        entries[message].segmentCount = count &+ 1
        entries[message].byteCount &+= length
        keep(buffer, by: message)
    }

    /// Gives each packet of a message two vectors, the second empty, so that segments of super-packets can follow.
    private mutating func widen(_ message: Int) {
        let vectors = vectors(message)
        var index = entries[message].segmentCount
        while index > 0 {
            index &-= 1
            let whole = vectors[index]
            vectors[index &* 2] = whole
            vectors[index &* 2 &+ 1] = iovec(iov_base: whole.iov_base, iov_len: 0)
        }
        entries[message].vectorsPerSegment = 2
    }

    /// Adds some segments of a super-packet to a message that has room for them, or that is new.
    @inline(__always)
    mutating func append(
        _ segments: Range<Int>, of plan: SegmentPlan, packet: UnsafeMutableRawPointer, in buffer: Int,
        to message: Int
    ) {
        if entries[message].vectorsPerSegment != 2 { widen(message) }
        let count = entries[message].segmentCount
        assert(segments.count > 0 && count &+ segments.count <= SuperPacketLimits.sendSegments)
        let arena = arena(message) + count &* SegmentPlan.headerStride
        plan.writeHeaders(of: segments, packet: packet, into: arena)
        _ = plan.writeVectors(of: segments, packet: packet, arena: arena, into: vectors(message) + count &* 2)
        if count == 0 {
            entries[message].segmentBytes = plan.headerBytes &+ plan.segmentPayloadBytes
        }
        entries[message].segmentCount = count &+ segments.count
        entries[message].byteCount &+= plan.byteCount(of: segments)
        keep(buffer, by: message)
    }

    /// Makes a message of one packet that was written to its arena.
    @inline(__always)
    mutating func fillFromArena(_ message: Int, length: Int) {
        vectors(message)[0] = iovec(iov_base: arena(message), iov_len: length)
        entries[message].segmentCount = 1
        entries[message].segmentBytes = length
        entries[message].byteCount = length
    }

    /// Makes a message of one segment of a failed one, whose memory it borrows.
    mutating func fill(_ message: Int, replaying segment: Int, of failed: Int) {
        let width = entries[failed].vectorsPerSegment
        var length = 0
        for index in 0..<width {
            let vector = vectors(failed)[segment &* width &+ index]
            vectors(message)[index] = vector
            length &+= vector.iov_len
        }
        entries[message].vectorsPerSegment = width
        entries[message].segmentCount = 1
        entries[message].segmentBytes = length
        entries[message].byteCount = length
        entries[message].retryOf = failed
        entries[failed].replaysPending &+= 1
    }

    /// Ends an open message: it will be sent after all that were sealed before it.
    @inline(__always)
    mutating func seal(_ message: Int) {
        owners.pass(message, from: .open, to: .worker)
        var place = 0
        while place < openCount, Int(open[place]) != message { place &+= 1 }
        if place < openCount {
            openCount &-= 1
            while place < openCount {
                open[place] = open[place &+ 1]
                place &+= 1
            }
        }
        sealFilled(message)
    }

    /// Puts a message whose send has ended among the sealed ones again.
    mutating func sealAgain(_ message: Int) {
        owners.pass(message, from: .worker, to: .sealed)
        entries[message].wasResent = true
        sealed[sealedCount] = Int32(truncatingIfNeeded: message)
        sealedCount &+= 1
    }

    /// Ends a message that was never open.
    @inline(__always)
    mutating func sealFilled(_ message: Int) {
        owners.pass(message, from: .worker, to: .sealed)
        let entry = entries[message]
        assert(entry.segmentCount > 0 && entry.byteCount <= SuperPacketLimits.sendBytes)
        memory.messages[message].msg_iov = vectors(message)
        memory.messages[message].msg_iovlen = entry.segmentCount &* entry.vectorsPerSegment
        if entry.segmentCount > 1 {
            let control = controls + message &* Int(TWILL_SEGMENT_CONTROL_BYTES)
            twill_write_segment_control(control, UInt16(truncatingIfNeeded: entry.segmentBytes))
            memory.messages[message].msg_control = control
            memory.messages[message].msg_controllen = Int(TWILL_SEGMENT_CONTROL_BYTES)
        } else {
            memory.messages[message].msg_control = nil
            memory.messages[message].msg_controllen = 0
        }
        sealed[sealedCount] = Int32(truncatingIfNeeded: message)
        sealedCount &+= 1
    }

    /// Ends the open messages that were opened before a round, the longest open first.
    @inline(__always)
    mutating func sealAll(openedBefore round: Int) {
        while openCount > 0, entries[Int(open[0])].openedInRound < round { seal(Int(open[0])) }
    }

    /// Ends the open messages that were opened in a round.
    @inline(__always)
    mutating func sealAll(openedIn round: Int) {
        while openCount > 0, entries[Int(open[openCount &- 1])].openedInRound == round {
            seal(Int(open[openCount &- 1]))
        }
    }

    /// Forgets the list of sealed messages; the caller has queued them all.
    @inline(__always)
    mutating func clearSealed() { sealedCount = 0 }

    /// Notes that a sealed message is handed to the engine.
    @inline(__always)
    func noteSend(_ message: Int) { owners.pass(message, from: .sealed, to: .sending) }

    /// Notes that a send has ended.
    @inline(__always)
    func noteSendEnded(_ message: Int) { owners.pass(message, from: .sending, to: .worker) }

    /// Keeps a message, whose send was refused, for the sends of its segments one by one.
    func keepForReplays(_ message: Int) { owners.pass(message, from: .worker, to: .replays) }

    /// Frees a message whose segments have all been sent one by one.
    mutating func endReplays(of message: Int) {
        assert(entries[message].replaysPending == 0, "a message is freed while its segments are sent")
        owners.pass(message, from: .replays, to: .worker)
        release(message)
    }

    /// Frees a message whose send has ended, and the buffers that nobody needs any more.
    @inline(__always)
    mutating func release(_ message: Int) {
        owners.pass(message, from: .worker, to: .free)
        let base = message &* SuperPacketLimits.sendSegments
        var place = 0
        while place < entries[message].bufferCount {
            let buffer = Int(buffers[base &+ place])
            assert(bufferUses[buffer] > 0, "no message uses the buffer")
            bufferUses[buffer] &-= 1
            if bufferUses[buffer] == 0 {
                bufferOwners.pass(buffer, from: .messages, to: .worker)
                giveBackBuffer(buffer)
            }
            place &+= 1
        }
        free[freeCount] = Int32(truncatingIfNeeded: message)
        freeCount &+= 1
    }

    /// Whether nothing is open, sealed or being sent.
    @inline(__always)
    var areAllFree: Bool { freeCount == memory.messageCount }

    /// Whether all messages and tunnel buffers are free.
    var isUnused: Bool { freeCount == memory.messageCount && freeBufferCount == memory.tunnelBufferCount }

    /// Traps in debug builds where the counts are not those of the buffers and messages.
    ///
    /// - Parameter waiting: packets that were read and wait; nothing else is the worker's between two rounds.
    @inline(__always)
    func checkCounts(waiting: Int) {
        bufferOwners.expectCount(freeBufferCount, of: .free)
        bufferOwners.expectCount(waiting, of: .worker)
        owners.expectCount(freeCount, of: .free)
        owners.expectCount(openCount, of: .open)
        owners.expectCount(sealedCount, of: .sealed)
        owners.expectCount(0, of: .worker)
    }
}
