/// One netlink message, taken out of a datagram.
struct Message: Hashable {
    var type: MessageType
    var flags: MessageFlags
    /// The request that it answers; 0 for a notification.
    var sequence: UInt32
    /// What follows the header.
    var payload: ArraySlice<UInt8>

    /// Takes the messages out of a datagram; nil where a length is wrong, since then nothing after it is known.
    /// Routes that are of no interest are left out without being looked at further.
    static func all(in datagram: [UInt8], interest: RouteInterest? = nil) -> [Message]? {
        if let interest { return interesting(in: datagram, interest) }
        var messages: [Message] = []
        var rest = datagram[...]
        while !rest.isEmpty {
            guard let length = rest.number(at: 0, as: UInt32.self).map(Int.init),
                length >= MessageLayout.headerSize, length <= rest.count,
                let type = rest.number(at: 4, as: UInt16.self),
                let flags = rest.number(at: 6, as: UInt16.self),
                let sequence = rest.number(at: 8, as: UInt32.self)
            else { return nil }
            messages.append(
                Message(
                    type: MessageType(rawValue: type), flags: MessageFlags(rawValue: flags),
                    sequence: sequence,
                    payload: rest.dropFirst(MessageLayout.headerSize).prefix(
                        length &- MessageLayout.headerSize)))
            rest = rest.dropFirst(MessageLayout.aligned(length))
        }
        return messages
    }

    /// As `all`, over a list of which most is of no interest: the rest costs no allocation.
    private static func interesting(in datagram: [UInt8], _ interest: RouteInterest) -> [Message]? {
        datagram.withUnsafeBytes { bytes in
            var messages: [Message] = []
            var start = 0
            while start < bytes.count {
                guard bytes.count &- start >= MessageLayout.headerSize else { return nil }
                let length = Int(bytes.loadUnaligned(fromByteOffset: start, as: UInt32.self))
                guard length >= MessageLayout.headerSize, length <= bytes.count &- start else { return nil }
                let type = MessageType(
                    rawValue: bytes.loadUnaligned(fromByteOffset: start &+ 4, as: UInt16.self))
                let size = length &- MessageLayout.headerSize
                let payload = bytes.dropFirst(start &+ MessageLayout.headerSize).prefix(size)
                let isRoute = type == .newRoute || type == .deleteRoute
                if !isRoute || interest.includes(UnsafeRawBufferPointer(rebasing: payload)) {
                    messages.append(
                        Message(
                            type: type,
                            flags: MessageFlags(
                                rawValue: bytes.loadUnaligned(fromByteOffset: start &+ 6, as: UInt16.self)),
                            sequence: bytes.loadUnaligned(fromByteOffset: start &+ 8, as: UInt32.self),
                            payload: datagram.dropFirst(start &+ MessageLayout.headerSize).prefix(size)))
                } else if bytes[start &+ 6] & UInt8(truncatingIfNeeded: MessageFlags.dumpInterrupted.rawValue)
                    != 0
                {
                    // That the list changed while it was read is told by whichever message came next.
                    messages.append(
                        Message(
                            type: .noOperation, flags: .dumpInterrupted,
                            sequence: bytes.loadUnaligned(fromByteOffset: start &+ 8, as: UInt32.self),
                            payload: []))
                }
                start = start &+ MessageLayout.aligned(length)
            }
            return messages
        }
    }

    /// The attributes after a fixed part of `size` bytes; those from the first bad length on are left out.
    func attributes(after size: Int) -> Attributes {
        Attributes(payload.dropFirst(MessageLayout.aligned(size)))
    }
}

/// Attributes by type. Of two with one type the later one counts, as in the kernel (`__nla_parse`).
struct Attributes {
    private var contents: [Int: ArraySlice<UInt8>] = [:]

    init(_ bytes: ArraySlice<UInt8>) {
        var rest = bytes
        while let length = rest.number(at: 0, as: UInt16.self).map(Int.init),
            let type = rest.number(at: 2, as: UInt16.self).map(Int.init),
            length >= MessageLayout.attributeHeaderSize, length <= rest.count
        {
            contents[type & MessageLayout.attributeTypeMask] =
                rest.dropFirst(MessageLayout.attributeHeaderSize)
                .prefix(length &- MessageLayout.attributeHeaderSize)
            rest = rest.dropFirst(MessageLayout.aligned(length))
        }
    }

    /// An attribute's bytes; nil where it is not there.
    subscript(type: Int) -> ArraySlice<UInt8>? { contents[type] }

    /// A 32-bit number in host byte order.
    func number(_ type: Int) -> UInt32? { contents[type]?.number(at: 0, as: UInt32.self) }

    /// Text up to its closing zero.
    func text(_ type: Int) -> String? {
        contents[type].map { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }

    /// The attributes inside an attribute; none where it is not there.
    func nested(_ type: Int) -> Attributes { Attributes(contents[type] ?? []) }
}

extension ArraySlice<UInt8> {
    /// The number that starts `offset` bytes into the slice, host byte order; nil where the slice ends before it.
    func number<Number: FixedWidthInteger>(at offset: Int, as type: Number.Type) -> Number? {
        guard offset >= 0, offset <= count &- MemoryLayout<Number>.size else { return nil }
        return withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: type) }
    }
}
