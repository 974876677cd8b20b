public import CLinux
import PacketHeaders

/// One write to the TUN: a virtio-net header, then a packet or super-packet, scattered.
@frozen
public struct CoalescedPacket {
    /// The vectors of the write, the virtio-net header first.
    ///
    /// The vectors and the virtio-net header belong to the coalescer, the packets to whoever owns the receive
    /// buffers; all of it stays as it is until `reset`.
    public let vectors: UnsafeMutablePointer<iovec>
    /// The number of vectors: 2 to 129.
    public let vectorCount: Int
    /// Bytes of the write, the virtio-net header's 10 included.
    public let byteCount: Int
    /// The number of packets that arrived and are in it.
    public let packetCount: Int
}

/// Merges packets of one flow that arrived after each other into super-packets for the TUN.
///
/// What goes in comes out: the kernel's segmentation of a super-packet gives the very bytes that arrived. So
/// packets merge only where all that segmentation copies from the first header (window, options, hop limit, ECN
/// marks) is equal, and all that it counts up (IPv4 identification, sequence number) counts up. A merged packet is
/// written with its checksum left to be completed (CHECKSUM_PARTIAL), which the kernel takes for verified, so all
/// checksums in it are verified before. Whatever cannot merge passes as it came.
///
/// A flow's packets stay in order. Slots are written in the order in which they were opened. A flow has at most one
/// slot that can be joined, and that is the last slot with a packet of the flow: a packet of the flow either joins
/// it, at its end, or closes it and goes into a slot opened later. A packet that hides its flow (a fragment, one with
/// IP options or extension headers) closes the slots of all flows between its two addresses. So of two packets of a
/// flow, the one that came first is in an earlier slot, or earlier in the same one.
///
/// All memory is allocated by `init`. One owner at a time; nothing is locked.
public struct Coalescer: ~Copyable {
    /// What became of a packet.
    public enum Addition: UInt8, Sendable {
        /// It begins a slot.
        case opened
        /// It is in the slot of the packets before it.
        case joined
        /// All slots are taken and it joins none: `close`, write, `reset`, then add it again.
        case full
    }

    /// The number of slots in use.
    public private(set) var slotCount: Int

    private let slotLimit: Int
    private let maximumBytes: Int
    /// The kinds that merge, a bit each: those that the TUN takes, without those that the kernel refused.
    private var mergedKinds: UInt8
    private var acceptedKinds: UInt8
    /// Whether the last packet of a slot may be shorter than the others.
    private var mergesShortTails = true
    /// The slot that the last packet went into; -1 where it is not known.
    private var latestSlot = -1

    private let slots: UnsafeMutablePointer<Slot>
    private let headers: UnsafeMutablePointer<virtio_net_hdr>
    private let vectors: UnsafeMutablePointer<iovec>
    private var flows: FlowTable

    /// Vectors of a slot: the virtio-net header, the first packet whole, then the payload of each that joined.
    private static let vectorsPerSlot = 1 + SuperPacketLimits.mergedPackets

    /// Allocates all memory that the coalescer will use: about 2.2 KiB for each slot.
    ///
    /// - Parameters:
    ///   - slotLimit: The number of packets and super-packets held at once, 1 to `SuperPacketLimits.slots`.
    ///   - merges: The packets whose super-packets the TUN takes (`TUN_F_TSO4`, `TUN_F_TSO6`, `TUN_F_USO4` with
    ///     `TUN_F_USO6`).
    ///   - maximumSuperPacketBytes: Bytes of a merged packet, IP header included; at most 65,535.
    public init(
        slotLimit: Int, merges: MergedKinds,
        maximumSuperPacketBytes: Int = SuperPacketLimits.mergedBytes
    ) {
        self.init(
            slotLimit: slotLimit, merges: merges, maximumSuperPacketBytes: maximumSuperPacketBytes,
            generation: 1)
    }

    /// As the public one, with a flow table that begins at `generation`: tests begin near its wrap.
    init(
        slotLimit: Int, merges: MergedKinds, maximumSuperPacketBytes: Int, generation: UInt32
    ) {
        precondition((1...SuperPacketLimits.slots).contains(slotLimit))
        precondition((1...SuperPacketLimits.mergedBytes).contains(maximumSuperPacketBytes))
        self.slotLimit = slotLimit
        maximumBytes = maximumSuperPacketBytes
        mergedKinds = merges.rawValue
        acceptedKinds = merges.rawValue
        slotCount = 0
        slots = .allocate(capacity: slotLimit)
        headers = .allocate(capacity: slotLimit)
        headers.initialize(repeating: virtio_net_hdr(), count: slotLimit)
        vectors = .allocate(capacity: slotLimit &* Coalescer.vectorsPerSlot)
        // The rest is written before it is read; the kernel gives it pages then.
        for index in 0..<slotLimit {  // checked: 1 or more, above
            vectors[index &* Coalescer.vectorsPerSlot] = iovec(
                iov_base: headers + index, iov_len: virtio_net_hdr.byteCount)
        }
        flows = FlowTable(slotLimit: slotLimit, generation: generation)
    }

    /// Memory that has no pages yet, of which some lie between those that have.
    public var memoryGivenLater: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(
            UnsafeBufferPointer(start: vectors, count: slotLimit &* Coalescer.vectorsPerSlot))
    }

    deinit {
        slots.deallocate()
        headers.deallocate()
        vectors.deallocate()
    }

    /// Says which packets' super-packets the TUN takes, before the first packet.
    public mutating func setAcceptedKinds(_ kinds: MergedKinds) {
        mergedKinds = kinds.rawValue
        acceptedKinds = kinds.rawValue
    }

    /// Takes one IP packet of `length` bytes (65,575 at most), in order of arrival.
    ///
    /// The caller has checked that the packet is whole and, for IPv4, that its header checksum is right, and has
    /// counted down the hop limit. The bytes stay where they are and must not change until `reset`; `close` may
    /// write into their headers.
    public mutating func add(_ packet: UnsafeMutableRawPointer, length: Int) -> Addition {
        // In bulk nearly each packet continues the one before.
        if latestSlot >= 0, let arrival = slots[latestSlot].continuation(packet, length: length),
            append(arrival, to: latestSlot)
        {
            return .joined
        }
        let arrival = Arrival.read(packet, length: length)
        guard mergedKinds & arrival.kind.bit != 0 else {
            if arrival.kind == .hidesFlow { closeFlows(between: arrival) }
            return open(Slot(arrival, isOpen: false), length: length) ? .opened : .full
        }

        let hash = arrival.flowHash
        let set = flows.set(hash)
        // Where the flow's next slot is entered: in place of its last one, of a closed one, or of the oldest.
        var entry = 0
        var oldest = Int.max
        for way in 0..<FlowTable.ways {
            guard let index = flows.slot(set, way), slots[index].isOpen else {
                if oldest >= 0 { (entry, oldest) = (way, -1) }
                continue
            }
            if flows.hasTag(set, way, of: hash), slots[index].isSameFlow(arrival) {
                if join(index, arrival) {
                    latestSlot = index
                    return .joined
                }
                slots[index].isOpen = false
                entry = way
                break
            }
            if index < oldest { (entry, oldest) = (way, index) }
        }

        let isOpen = arrival.isMergeable && !arrival.isLast
        let index = slotCount
        guard open(Slot(arrival, isOpen: isOpen), length: length) else { return .full }
        if isOpen {
            flows.enter(set, entry, hash: hash, slot: index)
        }
        return .opened
    }

    /// Makes all slots ready to be written: merged ones get their headers. Nothing is added between `close` and
    /// `reset`.
    public mutating func close() {
        // checked: a count of slots is never negative
        for index in 0..<slotCount where slots[index].packetCount > 1 { finishHeaders(index) }
    }

    /// The write of slot `index`, below `slotCount`, after `close`. Slots are written in order.
    public func slot(_ index: Int) -> CoalescedPacket {
        let packetCount = Int(slots[index].packetCount)
        return CoalescedPacket(
            vectors: vectors + index &* Coalescer.vectorsPerSlot, vectorCount: packetCount &+ 1,
            byteCount: Int(slots[index].byteCount) &+ virtio_net_hdr.byteCount, packetCount: packetCount)
    }

    /// Empties the coalescer; the receive buffers are the caller's again.
    public mutating func reset() {
        slotCount = 0
        latestSlot = -1
        flows.removeAll()
    }
}

extension Coalescer {
    /// Puts a slot with its first packet behind the others, unless all are taken.
    @inline(__always)
    private mutating func open(_ slot: Slot, length: Int) -> Bool {
        let index = slotCount
        guard index < slotLimit else { return false }
        (slots + index).initialize(to: slot)
        headers[index] = virtio_net_hdr()
        vectors[index &* Coalescer.vectorsPerSlot &+ 1] = iovec(iov_base: slot.packet, iov_len: length)
        slotCount = index &+ 1
        latestSlot = index
        return true
    }

    /// Appends a packet to an open slot of its flow, if that keeps every byte of both.
    @inline(__always)
    private mutating func join(_ index: Int, _ arrival: Arrival) -> Bool {
        guard arrival.isMergeable, slots[index].isContinued(by: arrival) else { return false }
        return append(arrival, to: index)
    }

    /// Appends a packet that continues an open slot, if it is not too long for it, and the checksums are right.
    @inline(__always)
    private mutating func append(_ arrival: Arrival, to index: Int) -> Bool {
        let slot = slots + index
        let segmentPayloadBytes = slot.pointee.segmentPayloadBytes
        let payloadBytes = arrival.payloadBytes
        let byteCount = Int(slot.pointee.byteCount) &+ payloadBytes
        guard payloadBytes <= segmentPayloadBytes, payloadBytes == segmentPayloadBytes || mergesShortTails,
            byteCount <= maximumBytes
        else { return false }

        if !slot.pointee.isVerified {
            // It is alone in its slot, so the slot's bytes are its own.
            guard
                Arrival.isIntact(
                    slot.pointee.packet, length: Int(slot.pointee.byteCount), kind: slot.pointee.kind)
            else { return false }
            slot.pointee.isVerified = true
        }
        guard Arrival.isIntact(arrival.packet, length: arrival.length, kind: arrival.kind) else {
            return false
        }

        let packetCount = Int(slot.pointee.packetCount)
        vectors[index &* Coalescer.vectorsPerSlot &+ 1 &+ packetCount] = iovec(
            iov_base: arrival.packet + arrival.headerBytes, iov_len: payloadBytes)
        slot.pointee.byteCount = UInt32(truncatingIfNeeded: byteCount)
        slot.pointee.packetCount &+= 1
        slot.pointee.nextIdentification &+= 1
        slot.pointee.nextSequence &+= UInt32(truncatingIfNeeded: payloadBytes)
        slot.pointee.isPushed = arrival.isLast
        slot.pointee.isOpen =
            payloadBytes == segmentPayloadBytes && !arrival.isLast
            && packetCount &+ 1 < SuperPacketLimits.mergedPackets
        return true
    }

    /// Closes all flows between the addresses of a packet that hides its flow: at most `slotLimit` comparisons.
    private mutating func closeFlows(between arrival: Arrival) {
        let isIPv6 = arrival.packet.byte(0) >> 4 == 6
        // checked: a count of slots is never negative
        for index in 0..<slotCount
        where slots[index].isOpen && slots[index].hasAddresses(of: arrival, isIPv6: isIPv6) {
            slots[index].isOpen = false
        }
    }

    /// Makes the first packet's headers those of the super-packet, and its virtio-net header say how to cut it.
    private func finishHeaders(_ index: Int) {
        let slot = slots[index]
        let packet = slot.packet
        let byteCount = Int(slot.byteCount)
        let segmentPayloadBytes = slot.segmentPayloadBytes
        let segmentation: UInt8
        if slot.kind.isTCP {
            if slot.isPushed {
                let segment = packet + slot.kind.transportOffset
                segment.setField16(TCPWire.flags, segment.field16(TCPWire.flags) | TCPWire.psh)
            }
            segmentation =
                slot.kind.isIPv6 ? virtio_net_hdr.segmentsTCPOverIPv6 : virtio_net_hdr.segmentsTCPOverIPv4
        } else {
            segmentation = virtio_net_hdr.segmentsUDP
        }
        setLengths(of: slot, to: byteCount)
        headers[index] = virtio_net_hdr(
            flags: virtio_net_hdr.needsChecksum, gso_type: segmentation, hdr_len: UInt16(slot.headerBytes),
            gso_size: UInt16(truncatingIfNeeded: segmentPayloadBytes),
            csum_start: UInt16(truncatingIfNeeded: slot.kind.transportOffset),
            csum_offset: UInt16(truncatingIfNeeded: slot.kind.isTCP ? TCPWire.checksum : UDPWire.checksum))
    }

    /// Writes the lengths of a packet of `byteCount` bytes into a slot's headers, and leaves the transport checksum
    /// open.
    private func setLengths(of slot: Slot, to byteCount: Int) {
        let packet = slot.packet
        let segment = packet + slot.kind.transportOffset
        let transportBytes = byteCount &- slot.kind.transportOffset
        let number = slot.kind.isTCP ? TCPWire.number : UDPWire.number

        let pseudoHeader: InternetSum
        if slot.kind.isIPv6 {
            packet.setField16(IPv6Wire.payloadLength, UInt16(truncatingIfNeeded: transportBytes))
            pseudoHeader = InternetSum(
                pseudoHeaderIPv6: packet + IPv6Wire.addresses, transport: number, length: transportBytes)
        } else {
            let oldLength = packet.field16(IPv4Wire.totalLength)
            let newLength = UInt16(truncatingIfNeeded: byteCount)
            packet.setField16(IPv4Wire.totalLength, newLength)
            packet.setField16(
                IPv4Wire.checksum,
                InternetSum.checksum(
                    packet.field16(IPv4Wire.checksum), replacing: oldLength, with: newLength))
            pseudoHeader = InternetSum(
                pseudoHeaderIPv4: packet + IPv4Wire.addresses, transport: number, length: transportBytes)
        }
        if !slot.kind.isTCP {
            segment.setField16(UDPWire.length, UInt16(truncatingIfNeeded: transportBytes))
        }
        segment.setField16(
            slot.kind.isTCP ? TCPWire.checksum : UDPWire.checksum, pseudoHeader.partialChecksum)
    }
}

/// A merged write, as a kernel may refuse it.
public enum MergedWrite: Sendable, Equatable {
    /// The last packet is shorter than the others: Linux 6.6.44 and 6.10.3 answer EINVAL.
    case shortTail
    /// All packets have one size; what they are.
    case even(MergedKinds)
}

// Where the kernel refuses a super-packet, its packets are written one by one. All that the merging changed is the
// headers of the first; those of the others still lie before their payload.
extension Coalescer {
    /// What is merged in the write of slot `index`; nil where nothing is.
    public func merged(_ index: Int) -> MergedWrite? {
        let slot = slots[index]
        guard slot.packetCount > 1, slot.separatedCount == 0 else { return nil }
        let last = vectors[index &* Coalescer.vectorsPerSlot &+ Int(slot.packetCount)].iov_len
        return last < Int(headers[index].gso_size)
            ? .shortTail : .even(slot.kind.isTCP ? (slot.kind.isIPv6 ? .tcpOverIPv6 : .tcpOverIPv4) : .udp)
    }

    /// Merges no more what a kernel refuses.
    public mutating func stopMerging(_ refused: MergedWrite) {
        switch refused {
        case .shortTail: mergesShortTails = false
        case .even(let kinds): mergedKinds &= ~kinds.rawValue
        }
    }

    /// Merges again what `stopMerging` ended.
    public mutating func resumeMerging() {
        mergesShortTails = true
        mergedKinds = acceptedKinds
    }

    /// Whether slot `index` was merged, and its packets are writes of their own.
    public func isSeparated(_ index: Int) -> Bool { slots[index].separatedCount > 0 }

    /// How many packets of slot `index` have not been in a write, its merged one apart, that was refused.
    public func packetsToSeparate(_ index: Int) -> Int {
        Int(slots[index].packetCount &- slots[index].separatedCount)
    }

    /// Makes the next packet of slot `index`, whose merged write was refused, a write of its own: the first packet in
    /// the first call, and so on. The write of the one before has ended, as they share their vectors.
    ///
    /// - Returns: nil after the last, or where nothing was merged.
    public mutating func separate(_ index: Int) -> CoalescedPacket? {
        let place = Int(slots[index].separatedCount)
        guard slots[index].packetCount > 1, place < Int(slots[index].packetCount) else { return nil }
        slots[index].separatedCount &+= 1
        let vectors = vectors + index &* Coalescer.vectorsPerSlot
        if place == 0 {
            let slot = slots[index]
            let length = Int(slot.headerBytes) &+ Int(headers[index].gso_size)
            vectors[1].iov_len = length
            setLengths(of: slot, to: length)
            if slot.kind.isTCP {
                // A packet with PSH is the last of its slot, so it was not the first that had it.
                let segment = slot.packet + slot.kind.transportOffset
                segment.setField16(TCPWire.flags, segment.field16(TCPWire.flags) & ~TCPWire.psh)
            }
            // The kernel completes the checksum, which was verified: it comes out as it came in.
            headers[index].gso_type = 0
            headers[index].gso_size = 0
        } else {
            let headerBytes = Int(slots[index].headerBytes)
            let payload = vectors[1 &+ place]
            vectors[1] = iovec(
                // checked: a packet joined here, so `join` set the vector's base.
                iov_base: payload.iov_base - headerBytes, iov_len: payload.iov_len &+ headerBytes)
            headers[index] = virtio_net_hdr()
        }
        return CoalescedPacket(
            vectors: vectors, vectorCount: 2, byteCount: vectors[1].iov_len &+ virtio_net_hdr.byteCount,
            packetCount: 1)
    }
}
