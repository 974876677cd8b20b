import Addresses

extension IPAddress {
    /// The family's number, as rtnetlink has it.
    var family: UInt8 {
        switch self {
        case .v4: Family.v4
        case .v6: Family.v6
        }
    }

    /// The address as it stands on the wire: 4 or 16 bytes, most significant first.
    var wireBytes: [UInt8] {
        switch self {
        case .v4(let address):
            return withUnsafeBytes(of: address.networkBytes) { Array($0) }
        case .v6(let address):
            return withUnsafeBytes(of: (address.high.bigEndian, address.low.bigEndian)) { Array($0) }
        }
    }

    /// Reads an address of `family` from its wire form; nil for another family or length.
    init?(wireBytes: ArraySlice<UInt8>?, family: UInt8) {
        guard let wireBytes else { return nil }
        switch (family, wireBytes.count) {
        case (Family.v4, 4):
            guard let bits = wireBytes.number(at: 0, as: UInt32.self) else { return nil }
            self = .v4(IPv4Address(networkBytes: bits))
        case (Family.v6, 16):
            guard let high = wireBytes.number(at: 0, as: UInt64.self),
                let low = wireBytes.number(at: 8, as: UInt64.self)
            else { return nil }
            self = .v6(IPv6Address(high: UInt64(bigEndian: high), low: UInt64(bigEndian: low)))
        default:
            return nil
        }
    }

    /// Reads a next hop of another family than the route's: `struct rtvia`, the family in 2 bytes, then the address
    /// (`RTA_VIA`).
    init?(via bytes: ArraySlice<UInt8>?) {
        guard let bytes, let family = bytes.number(at: 0, as: UInt16.self),
            let family = UInt8(exactly: family)
        else { return nil }
        self.init(wireBytes: bytes.dropFirst(MemoryLayout<UInt16>.size), family: family)
    }

    /// `0.0.0.0` or `::`; nil for a family that is neither.
    static func any(family: UInt8) -> IPAddress? {
        switch family {
        case Family.v4: .v4(.any)
        case Family.v6: .v6(.any)
        default: nil
        }
    }
}
