import PacketHeaders

/// A packet or super-packet in the making.
struct Slot {
    /// The packet that opened the slot.
    var packet: UnsafeMutableRawPointer
    /// Bytes of IP packet in all.
    var byteCount: UInt32
    /// TCP sequence number that the next packet has to have.
    var nextSequence: UInt32
    /// IPv4 identification that the next packet has to have.
    var nextIdentification: UInt16
    var packetCount: UInt16
    /// Bytes of IP and transport header: at most 100, as there are no IP options.
    var headerBytes: UInt8
    var kind: Arrival.Kind
    /// Packets of a refused super-packet that were made writes of their own.
    var separatedCount: UInt16 = 0
    /// Whether packets can join.
    var isOpen: Bool
    /// Whether the checksum of the first packet was verified, which is left until a second one comes.
    var isVerified: Bool
    /// Whether the last packet carries PSH.
    var isPushed: Bool

    @inline(__always)
    init(_ arrival: Arrival, isOpen: Bool) {
        packet = arrival.packet
        byteCount = UInt32(truncatingIfNeeded: arrival.length)
        packetCount = 1
        headerBytes = UInt8(truncatingIfNeeded: arrival.headerBytes)
        kind = arrival.kind
        self.isOpen = isOpen
        isVerified = false
        isPushed = false
        nextIdentification = 0
        nextSequence = 0
        guard isOpen else { return }
        if !arrival.kind.isIPv6 { nextIdentification = packet.field16(IPv4Wire.identification) &+ 1 }
        if arrival.kind.isTCP {
            nextSequence =
                arrival.segment.field32(TCPWire.sequence)
                &+ UInt32(truncatingIfNeeded: arrival.payloadBytes)
        }
    }

    /// Bytes of payload in the packets before the last.
    @inline(__always)
    var segmentPayloadBytes: Int {
        let total =
            kind.isIPv6
            ? Int(packet.field16(IPv6Wire.payloadLength)) &+ IPv6Wire.headerBytes
            : Int(packet.field16(IPv4Wire.totalLength))
        return total &- Int(headerBytes)
    }

    @inline(__always)
    func hasAddresses(of arrival: Arrival, isIPv6: Bool) -> Bool {
        guard kind.isIPv6 == isIPv6 else { return false }
        if isIPv6 {
            var difference: UInt64 = 0
            for offset in stride(from: IPv6Wire.addresses, to: IPv6Wire.headerBytes, by: 8) {
                difference |=
                    packet.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
                    ^ arrival.packet.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
            }
            return difference == 0
        }
        return packet.loadUnaligned(fromByteOffset: IPv4Wire.addresses, as: UInt64.self)
            == arrival.packet.loadUnaligned(fromByteOffset: IPv4Wire.addresses, as: UInt64.self)
    }

    /// Whether a packet of a known flow is of this slot's flow.
    @inline(__always)
    func isSameFlow(_ arrival: Arrival) -> Bool {
        kind == arrival.kind
            && (packet + kind.transportOffset).loadUnaligned(as: UInt32.self)
                == arrival.segment.loadUnaligned(as: UInt32.self)
            && hasAddresses(of: arrival, isIPv6: kind.isIPv6)
    }

    /// A packet as the next one of this slot, if all of its headers say that it is: then there is no need to find out what
    /// it is, and which slot its flow has. Never reads past `length` bytes.
    @inline(__always)
    func continuation(_ packet: UnsafeMutableRawPointer, length: Int) -> Arrival? {
        guard isOpen, length > Int(headerBytes) else { return nil }
        var arrival = Arrival(
            packet: packet, length: length, kind: kind, headerBytes: Int(headerBytes), isMergeable: true,
            isLast: false)
        guard isSameFlow(arrival), isContinued(by: arrival), arrival.hasItsLengths,
            arrival.hasChecksumsOfSegmentation
        else { return nil }
        arrival.isLast = kind.isTCP && arrival.segment.field16(TCPWire.flags) & TCPWire.psh != 0
        return arrival
    }

    /// Whether segmentation would give the very headers of `arrival`, which is of the same flow and mergeable.
    /// Checksums are left out.
    @inline(__always)
    func isContinued(by arrival: Arrival) -> Bool {
        let segment = packet + kind.transportOffset
        let first = packet.field64(0) ^ arrival.packet.field64(0)
        if kind.isIPv6 {
            // All of the first 8 bytes but the payload length, bytes 4 and 5.
            guard first & 0xFFFF_FFFF_0000_FFFF == 0 else { return false }
        } else {
            // All of the first 8 bytes but total length and identification, bytes 2 to 5; then hop limit and transport.
            guard first & 0xFFFF_0000_0000_FFFF == 0, packet.field16(8) == arrival.packet.field16(8),
                arrival.packet.field16(IPv4Wire.identification) == nextIdentification
            else { return false }
        }
        guard kind.isTCP else { return true }
        let other = arrival.segment
        // Acknowledgment number, data offset, flags but PSH, window; then the urgent pointer.
        let second = segment.field64(8) ^ other.field64(8)
        guard other.field32(TCPWire.sequence) == nextSequence, second & ~(UInt64(TCPWire.psh) << 16) == 0,
            segment.field16(18) == other.field16(18)
        else { return false }
        var offset = TCPWire.headerBytes
        let end = Int(headerBytes) &- kind.transportOffset
        while offset < end {
            guard segment.field32(offset) == other.field32(offset) else { return false }
            offset &+= 4
        }
        return true
    }
}
