/// One hello between two nodes, the whole payload of a UDP datagram from and to the network's port.
///
/// It is shorter than an IPv4 header, so that flannel drops it without a word and a twill of before the kernel path as
/// too short; nothing of the overlay can look like it. Its datagram has no checksum, as those of the kernel path have
/// none: where one arrives the others do. All in network byte order:
///
/// | offset | bytes | what |
/// |--:|--:|---|
/// | 0 | 4 | `twil` |
/// | 4 | 1 | version, 1 |
/// | 5 | 1 | 1: a question, 2: its answer |
/// | 6 | 1 | bit 0: whoever sends this takes kernel-path datagrams in; the other bits are 0, and not looked at |
/// | 7 | 1 | 0, and not looked at |
/// | 8 | 8 | a number that the question draws by lot and its answer repeats |
///
/// Later versions keep these bytes and say more in what is not looked at; what cannot be said so is another message.
public struct HelloMessage: Sendable, Equatable {
    /// What a hello is.
    public enum Kind: UInt8, Sendable {
        /// Asks whether the peer takes kernel-path datagrams in.
        case question = 1
        /// Says so.
        case answer = 2
    }

    /// Bytes of a hello.
    public static let byteCount = 16
    /// `twil`.
    static let mark: UInt32 = 0x7477_696C
    static let version: UInt8 = 1

    /// Question or answer.
    public var kind: Kind
    /// Whether whoever sends it takes kernel-path datagrams in.
    public var receives: Bool
    /// What an answer repeats of its question.
    public var number: UInt64

    /// Makes a hello.
    public init(_ kind: Kind, receives: Bool, number: UInt64) {
        self.kind = kind
        self.receives = receives
        self.number = number
    }

    /// Reads a datagram's payload; nil where it is no hello, or one of version 0.
    public init?(_ bytes: UnsafeRawPointer, length: Int) {
        guard length == HelloMessage.byteCount,
            UInt32(bigEndian: bytes.loadUnaligned(as: UInt32.self)) == HelloMessage.mark,
            bytes.load(fromByteOffset: 4, as: UInt8.self) >= HelloMessage.version,
            let kind = Kind(rawValue: bytes.load(fromByteOffset: 5, as: UInt8.self))
        else { return nil }
        self.kind = kind
        receives = bytes.load(fromByteOffset: 6, as: UInt8.self) & 1 != 0
        number = UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
    }

    /// Writes it: `byteCount` bytes, of any alignment.
    public func write(to bytes: UnsafeMutableRawPointer) {
        bytes.storeBytes(of: HelloMessage.mark.bigEndian, as: UInt32.self)
        bytes.storeBytes(of: HelloMessage.version, toByteOffset: 4, as: UInt8.self)
        bytes.storeBytes(of: kind.rawValue, toByteOffset: 5, as: UInt8.self)
        bytes.storeBytes(of: receives ? 1 : 0, toByteOffset: 6, as: UInt8.self)
        bytes.storeBytes(of: 0, toByteOffset: 7, as: UInt8.self)
        bytes.storeBytes(of: number.bigEndian, toByteOffset: 8, as: UInt64.self)
    }
}
