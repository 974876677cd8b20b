public import Addresses
public import Counters

/// Writes copied packets as a pcapng file (draft-ietf-opsawg-pcapng): a section, two interfaces of raw IP packets, and a
/// block for each packet.
///
/// The first interface is the tunnel: packets as pods send and get them, super-packets among them. The second is the
/// underlay: the same packets in their datagrams, whose IP and UDP headers are made here of the endpoints, as twill does
/// not see the kernel's own. A packet that was dropped has the reason as its comment.
public struct CaptureFile: Sendable {
    /// What an interface's packets begin with: an IP header of either version (`LINKTYPE_RAW`).
    private static let linkType: UInt16 = 101
    private static let byteOrderMagic: UInt32 = 0x1A2B_3C4D
    private static let blockOverhead = 12

    /// The tunnel's device.
    private let interface: String
    /// This node's end of the underlay.
    private let endpoint: Endpoint
    /// Nanoseconds that are added to a packet's time, which is the monotonic clock's.
    private let clockOffsetNanoseconds: Int64

    /// Makes a writer.
    ///
    /// - Parameters:
    ///   - interface: the tunnel's device.
    ///   - endpoint: this node's end of the underlay.
    ///   - clockOffsetNanoseconds: what makes the monotonic clock's time that of the world, since 1970.
    public init(interface: String, endpoint: Endpoint, clockOffsetNanoseconds: Int64) {
        self.interface = interface
        self.endpoint = endpoint
        self.clockOffsetNanoseconds = clockOffsetNanoseconds
    }

    /// What the file begins with.
    ///
    /// - Parameter application: who wrote it, with its version.
    public func head(application: String) -> [UInt8] {
        var section = Body()
        section.append(CaptureFile.byteOrderMagic)
        section.append(UInt16(1))
        section.append(UInt16(0))
        section.append(UInt64.max)  // of unknown length
        section.append(option: 4, Array(application.utf8))
        section.endOptions()
        return CaptureFile.block(0x0A0D_0D0A, section)
            + interfaceBlock(interface, "packets of pods, before and after the tunnel")
            + interfaceBlock("underlay", "the tunnel's datagrams; their headers are made of the endpoints")
    }

    private func interfaceBlock(_ name: String, _ description: String) -> [UInt8] {
        var body = Body()
        body.append(CaptureFile.linkType)
        body.append(UInt16(0))
        body.append(UInt32(0))  // no limit that a block would not say itself
        body.append(option: 2, Array(name.utf8))
        body.append(option: 3, Array(description.utf8))
        body.append(option: 9, [9])  // times are nanoseconds
        body.endOptions()
        return CaptureFile.block(1, body)
    }

    /// The block of a packet.
    public func block(_ copy: PacketCopy) -> [UInt8] {
        let peer = copy.peer
        var outer: [UInt8] = []
        switch copy.point {
        case .underlaySent: outer = peer.map { header(from: endpoint, to: $0, payload: copy.length) } ?? []
        case .underlayReceived, .droppedInbound:
            outer = peer.map { header(from: $0, to: endpoint, payload: copy.length) } ?? []
        case .tunnelRead, .tunnelWritten, .droppedOutbound: break
        }
        let isInbound = [.underlayReceived, .tunnelWritten, .droppedInbound].contains(copy.point)
        let time = UInt64(bitPattern: Int64(bitPattern: copy.nanoseconds) &+ clockOffsetNanoseconds)
        var body = Body()
        body.append(UInt32(outer.isEmpty ? 0 : 1))
        body.append(UInt32(truncatingIfNeeded: time >> 32))
        body.append(UInt32(truncatingIfNeeded: time))
        body.append(UInt32(truncatingIfNeeded: outer.count &+ copy.bytes.count))
        body.append(UInt32(truncatingIfNeeded: outer.count &+ copy.length))
        body.append(padded: outer + copy.bytes)
        // Whether it came or went, as the interface has it: what comes from the underlay comes in there and goes out to
        // the pods.
        let comesIn = outer.isEmpty ? copy.point == .tunnelRead || copy.point == .droppedOutbound : isInbound
        body.append(option: 2, [comesIn ? 1 : 2, 0, 0, 0])
        if let comment = comment(of: copy, peer: peer) { body.append(option: 1, Array(comment.utf8)) }
        body.endOptions()
        return CaptureFile.block(6, body)
    }

    /// The block that says how many packets were not captured since the capture began.
    ///
    /// - Parameters:
    ///   - missed: packets that found no room.
    ///   - nanoseconds: now, by the monotonic clock.
    public func statistics(missed: UInt64, nanoseconds: UInt64) -> [UInt8] {
        let time = UInt64(bitPattern: Int64(bitPattern: nanoseconds) &+ clockOffsetNanoseconds)
        var body = Body()
        body.append(UInt32(0))
        body.append(UInt32(truncatingIfNeeded: time >> 32))
        body.append(UInt32(truncatingIfNeeded: time))
        body.append(UInt16(5))  // isb_ifdrop
        body.append(UInt16(8))
        body.append(missed)
        body.endOptions()
        return CaptureFile.block(5, body)
    }

    private func comment(of copy: PacketCopy, peer: Endpoint?) -> String? {
        guard let reason = copy.reason else { return nil }
        return "dropped: \(reason.name)"
            + (peer.map { ", \(copy.point == .droppedInbound ? "from" : "to") \($0)" } ?? "")
    }

    /// The IP and UDP headers that a datagram between two endpoints has, its identification 0 and its UDP checksum left
    /// out where IP has one.
    private func header(from source: Endpoint, to destination: Endpoint, payload: Int) -> [UInt8] {
        var body = Body(isBigEndian: true)
        let datagram = UInt16(truncatingIfNeeded: 8 &+ payload)
        switch (source.address, destination.address) {
        case (.v4(let from), .v4(let to)):
            var words: [UInt16] = [
                0x4500, UInt16(truncatingIfNeeded: 28 &+ payload), 0, 0x4000, 0x4011, 0,
                UInt16(truncatingIfNeeded: from.bits >> 16), UInt16(truncatingIfNeeded: from.bits),
                UInt16(truncatingIfNeeded: to.bits >> 16), UInt16(truncatingIfNeeded: to.bits),
            ]
            let sum = words.reduce(UInt32(0)) { $0 &+ UInt32($1) }
            let folded = (sum & 0xFFFF) &+ (sum >> 16)
            words[5] = ~UInt16(truncatingIfNeeded: (folded & 0xFFFF) &+ (folded >> 16))
            for word in words { body.append(word) }
        case (.v6(let from), .v6(let to)):
            body.append(UInt32(0x6000_0000))
            body.append(datagram)
            body.append(UInt16(0x1140))
            for half in [from.high, from.low, to.high, to.low] { body.append(half) }
        default: return []
        }
        for word in [source.port, destination.port, datagram, 0] { body.append(word) }
        return body.bytes
    }

    private static func block(_ type: UInt32, _ body: Body) -> [UInt8] {
        var whole = Body()
        let length = UInt32(truncatingIfNeeded: body.bytes.count &+ blockOverhead)
        whole.append(type)
        whole.append(length)
        whole.bytes += body.bytes
        whole.append(length)
        return whole.bytes
    }

    /// Numbers and options of a block, in the machine's order, which the section's head tells; those of headers in the
    /// network's.
    private struct Body {
        var bytes: [UInt8] = []
        var isBigEndian = false

        mutating func append<Number: FixedWidthInteger>(_ number: Number) {
            withUnsafeBytes(of: isBigEndian ? number.bigEndian : number) { bytes += $0 }
        }

        mutating func append(padded data: [UInt8]) {
            bytes += data
            bytes += [UInt8](repeating: 0, count: (4 - data.count % 4) % 4)
        }

        mutating func append(option code: UInt16, _ value: [UInt8]) {
            append(code)
            append(UInt16(truncatingIfNeeded: value.count))
            append(padded: value)
        }

        mutating func endOptions() { append(UInt32(0)) }
    }
}

extension PacketCopy {
    /// The other side of the underlay; nil where there is none.
    public var peer: Endpoint? { Endpoint(recorded: socketName) }

    /// One line for a terminal: where it was, what it says, how long it is.
    ///
    /// - Parameter time: of the day, as it is to be shown.
    public func line(time: String) -> String {
        let place =
            switch point {
            case .tunnelRead: "pod →"
            case .underlaySent: "→ " + (peer.map { "\($0)" } ?? "underlay")
            case .underlayReceived: "← " + (peer.map { "\($0)" } ?? "underlay")
            case .tunnelWritten: "pod ←"
            case .droppedOutbound: "dropped →"
            case .droppedInbound: "dropped ← " + (peer.map { "\($0)" } ?? "underlay")
            }
        let why = reason.map { ", \($0.name)" } ?? ""
        return "\(time)  \(place)  \(PacketWords(bytes).text), \(length) bytes\(why)"
    }
}
