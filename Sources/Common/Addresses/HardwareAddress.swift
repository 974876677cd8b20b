/// The address of an interface on an Ethernet link (IEEE 802): 48 bits.
@frozen
public struct HardwareAddress: Sendable, Hashable {
    /// The address as a number, its first byte on the wire the most significant of the lower 48 bits; the upper 16
    /// are 0.
    public let bits: UInt64

    /// Makes an address of the lower 48 bits of a number.
    public init(bits: UInt64) { self.bits = bits & 0xFFFF_FFFF_FFFF }

    /// Reads six bytes in the order of the wire; nil for another count.
    public init?(wireBytes: some Collection<UInt8>) {
        guard wireBytes.count == 6 else { return nil }
        bits = wireBytes.reduce(0) { $0 << 8 | UInt64($1) }
    }

    /// Parses `0a:58:0a:42:1c:00`, in any case; nil for anything else.
    public init?(_ text: some StringProtocol) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        var bytes: [UInt8] = []
        for part in parts {
            guard part.utf8.count == 2, part.allSatisfy(\.isHexDigit), let byte = UInt8(part, radix: 16)
            else { return nil }
            bytes.append(byte)
        }
        self.init(wireBytes: bytes)
    }

    /// The six bytes in the order of the wire.
    public var wireBytes: [UInt8] {
        stride(from: 40, through: 0, by: -8).map { UInt8(truncatingIfNeeded: bits >> UInt64($0)) }
    }

    /// Whether it names one interface, and not a group or nobody.
    public var isUnicast: Bool { bits != 0 && bits >> 40 & 1 == 0 }
}

extension HardwareAddress: CustomStringConvertible {
    /// Six bytes in lower-case hexadecimal with colons between them, as ip(8) and flannel write them.
    public var description: String {
        wireBytes.map { byte in
            let digits = String(byte, radix: 16)
            return digits.utf8.count == 1 ? "0" + digits : digits
        }.joined(separator: ":")
    }
}
