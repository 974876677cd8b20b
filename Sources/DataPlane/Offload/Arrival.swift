import PacketHeaders

/// A packet as the coalescer sees it: its flow, and whether it may merge.
struct Arrival {
    /// What a packet is to the coalescer. Raw values are bit numbers of a set of kinds.
    enum Kind: UInt8 {
        /// No flow that could be merged: another transport, or not an IP packet.
        case other
        /// Perhaps a packet of a flow that can be merged, but the ports or the end of the packet cannot be found: a
        /// fragment, IP options, extension headers, lengths that contradict each other.
        case hidesFlow
        /// TCP in IPv4 without options.
        case tcpOverIPv4
        /// TCP directly in IPv6.
        case tcpOverIPv6
        /// UDP in IPv4 without options.
        case udpOverIPv4
        /// UDP directly in IPv6.
        case udpOverIPv6

        @inline(__always) var bit: UInt8 { 1 << rawValue }
        @inline(__always) var isTCP: Bool { self == .tcpOverIPv4 || self == .tcpOverIPv6 }
        @inline(__always) var isIPv6: Bool { self == .tcpOverIPv6 || self == .udpOverIPv6 }
        @inline(__always) var transportOffset: Int { isIPv6 ? IPv6Wire.headerBytes : IPv4Wire.headerBytes }
    }

    let packet: UnsafeMutableRawPointer
    let length: Int
    let kind: Kind
    /// Bytes of IP and transport header, if `kind` has a flow.
    let headerBytes: Int
    /// Whether it may be in a super-packet at all.
    var isMergeable: Bool
    /// Whether no packet may follow it in a super-packet: TCP with PSH.
    var isLast: Bool

    @inline(__always) var payloadBytes: Int { length &- headerBytes }
    @inline(__always) var segment: UnsafeMutableRawPointer { packet + kind.transportOffset }

    /// Reads the headers of `length` bytes at `packet`; never a byte past them.
    @inline(__always)
    static func read(_ packet: UnsafeMutableRawPointer, length: Int) -> Arrival {
        guard length >= IPv4Wire.headerBytes else { return Arrival(packet, length, without: .other) }
        switch packet.byte(0) >> 4 {
        case 4:
            guard packet.byte(0) == 0x45, Int(packet.field16(IPv4Wire.totalLength)) == length,
                packet.field16(IPv4Wire.fragment) & ~IPv4Wire.dontFragment == 0
            else { return Arrival(packet, length, without: .hidesFlow) }
            switch packet.byte(IPv4Wire.transport) {
            case TCPWire.number: return readTCP(packet, length, kind: .tcpOverIPv4)
            case UDPWire.number: return readUDP(packet, length, kind: .udpOverIPv4)
            default: return Arrival(packet, length, without: .other)
            }
        case 6:
            guard length >= IPv6Wire.headerBytes else { return Arrival(packet, length, without: .other) }
            guard Int(packet.field16(IPv6Wire.payloadLength)) == length &- IPv6Wire.headerBytes else {
                return Arrival(packet, length, without: .hidesFlow)
            }
            switch packet.byte(IPv6Wire.transport) {
            case TCPWire.number: return readTCP(packet, length, kind: .tcpOverIPv6)
            case UDPWire.number: return readUDP(packet, length, kind: .udpOverIPv6)
            case IPv6Wire.icmp: return Arrival(packet, length, without: .other)
            // An extension header, perhaps, with TCP or UDP behind it.
            default: return Arrival(packet, length, without: .hidesFlow)
            }
        default:
            return Arrival(packet, length, without: .other)
        }
    }

    @inline(__always)
    private static func readTCP(_ packet: UnsafeMutableRawPointer, _ length: Int, kind: Kind) -> Arrival {
        let offset = kind.transportOffset
        let segment = packet + offset
        guard length &- offset >= TCPWire.headerBytes else {
            return Arrival(packet, length, without: .hidesFlow)
        }
        let flags = segment.field16(TCPWire.flags)
        let transportHeaderBytes = Int(flags >> 12) &* 4
        let headerBytes = offset &+ transportHeaderBytes
        guard transportHeaderBytes >= TCPWire.headerBytes, headerBytes <= length else {
            return Arrival(packet, length, without: .hidesFlow)
        }
        var arrival = Arrival(
            packet: packet, length: length, kind: kind, headerBytes: headerBytes, isMergeable: false,
            isLast: flags & TCPWire.psh != 0)
        arrival.isMergeable =
            length > headerBytes && flags & TCPWire.allFlags & ~TCPWire.psh == TCPWire.ack
            && arrival.hasChecksumsOfSegmentation
        return arrival
    }

    @inline(__always)
    private static func readUDP(_ packet: UnsafeMutableRawPointer, _ length: Int, kind: Kind) -> Arrival {
        let offset = kind.transportOffset
        let segment = packet + offset
        guard length &- offset >= UDPWire.headerBytes,
            Int(segment.field16(UDPWire.length)) == length &- offset
        else { return Arrival(packet, length, without: .hidesFlow) }
        let headerBytes = offset &+ UDPWire.headerBytes
        var arrival = Arrival(
            packet: packet, length: length, kind: kind, headerBytes: headerBytes, isMergeable: false,
            isLast: false)
        arrival.isMergeable = length > headerBytes && arrival.hasChecksumsOfSegmentation
        return arrival
    }
}

extension Arrival {
    @inline(__always)
    private init(_ packet: UnsafeMutableRawPointer, _ length: Int, without kind: Kind) {
        self.init(
            packet: packet, length: length, kind: kind, headerBytes: 0, isMergeable: false, isLast: false)
    }

    /// A hash of the flow, where `kind` has one.
    @inline(__always)
    var flowHash: UInt64 {
        let ports = segment.loadUnaligned(as: UInt32.self)
        return kind.isIPv6
            ? PacketFlow.hash(packet + IPv6Wire.addresses, addressBytes: 32, ports, kind.rawValue)
            : PacketFlow.hash(packet + IPv4Wire.addresses, addressBytes: 8, ports, kind.rawValue)
    }

    /// Whether the checksums are such as segmentation writes, which writes 0 for 0xFFFF. A UDP datagram over IPv4
    /// without a checksum (0) is not merged: nothing says that its bytes are right, and segmentation would give it
    /// one.
    @inline(__always)
    var hasChecksumsOfSegmentation: Bool {
        (kind.isIPv6 || packet.field16(IPv4Wire.checksum) != 0xFFFF)
            && (kind.isTCP
                ? segment.field16(TCPWire.checksum) != 0xFFFF : segment.field16(UDPWire.checksum) != 0)
    }

    /// Whether the headers' lengths are those of the packet.
    @inline(__always)
    var hasItsLengths: Bool {
        let isWhole =
            kind.isIPv6
            ? Int(packet.field16(IPv6Wire.payloadLength)) == length &- IPv6Wire.headerBytes
            : Int(packet.field16(IPv4Wire.totalLength)) == length
        return isWhole
            && (kind.isTCP || Int(segment.field16(UDPWire.length)) == length &- kind.transportOffset)
    }

    /// Whether the transport checksum is right.
    static func isIntact(_ packet: UnsafeMutableRawPointer, length: Int, kind: Kind) -> Bool {
        let offset = kind.transportOffset
        let number = kind.isTCP ? TCPWire.number : UDPWire.number
        var sum =
            kind.isIPv6
            ? InternetSum(
                pseudoHeaderIPv6: packet + IPv6Wire.addresses, transport: number, length: length &- offset)
            : InternetSum(
                pseudoHeaderIPv4: packet + IPv4Wire.addresses, transport: number, length: length &- offset)
        sum.add(packet + offset, count: length &- offset)
        return sum.isIntact
    }
}
