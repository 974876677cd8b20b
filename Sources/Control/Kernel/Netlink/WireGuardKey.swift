/// A key of WireGuard's: 32 bytes, public or not. What is printed of it by accident says nothing of it.
public struct WireGuardKey: Sendable, Hashable, CustomStringConvertible {
    /// Bytes of a key.
    public static let count = 32

    /// The key, `count` bytes.
    public let bytes: [UInt8]

    /// Makes a key of its bytes; nil where there are not `count`.
    public init?(_ bytes: some Sequence<UInt8>) {
        self.bytes = Array(bytes)
        guard self.bytes.count == WireGuardKey.count else { return nil }
    }

    /// Reads the text that wg(8) writes: base64 (RFC 4648) of 44 characters.
    public init?(base64 text: String) {
        guard text.utf8.count == 44, text.utf8.last == UInt8(ascii: "=") else { return nil }
        var bytes: [UInt8] = []
        var (bits, count) = (UInt32(0), UInt32(0))
        for character in text.utf8.dropLast() {
            guard let value = WireGuardKey.value(of: character) else { return nil }
            bits = bits << 6 | value
            count &+= 6
            if count >= 8 {
                count &-= 8
                bytes.append(UInt8(truncatingIfNeeded: bits >> count))
                bits &= (1 << count) &- 1
            }
        }
        // Two bits are left over: each key has one text.
        guard bits == 0 else { return nil }
        self.init(bytes)
    }

    /// The text that wg(8) writes, which whoever reads it can use.
    public var base64: String {
        var text = ""
        var (bits, count) = (UInt32(0), UInt32(0))
        for byte in bytes + [0] {
            bits = bits << 8 | UInt32(byte)
            count &+= 8
            while count >= 6 {
                count &-= 6
                text.unicodeScalars.append(WireGuardKey.character(of: bits >> count))
                bits &= (1 << count) &- 1
            }
        }
        // 33 bytes are 44 characters, of which the last stands for nothing.
        return text.dropLast() + "="
    }

    /// Whether it is the one that stands for none.
    public var isZero: Bool { bytes.allSatisfy { $0 == 0 } }

    /// Says nothing of the key.
    public var description: String { "a key of 32 bytes" }

    private static func value(of character: UInt8) -> UInt32? {
        switch character {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): UInt32(character &- UInt8(ascii: "A"))
        case UInt8(ascii: "a")...UInt8(ascii: "z"): UInt32(character &- UInt8(ascii: "a")) &+ 26
        case UInt8(ascii: "0")...UInt8(ascii: "9"): UInt32(character &- UInt8(ascii: "0")) &+ 52
        case UInt8(ascii: "+"): 62
        case UInt8(ascii: "/"): 63
        default: nil
        }
    }

    private static func character(of bits: UInt32) -> Unicode.Scalar {
        let value = UInt8(truncatingIfNeeded: bits & 63)
        return switch value {
        case 0..<26: Unicode.Scalar(UInt8(ascii: "A") &+ value)
        case 26..<52: Unicode.Scalar(UInt8(ascii: "a") &+ value &- 26)
        case 52..<62: Unicode.Scalar(UInt8(ascii: "0") &+ value &- 52)
        case 62: "+"
        default: "/"
        }
    }
}
