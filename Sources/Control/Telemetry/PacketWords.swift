public import Addresses

/// What a packet's first bytes say, for people: whose it is, and where it goes. Anything may stand there; what is not
/// whole is left out.
public struct PacketWords: Sendable, Equatable {
    /// The inner source; nil where the bytes are no IP header.
    public private(set) var source: IPAddress?
    /// The inner destination.
    public private(set) var destination: IPAddress?
    /// `TCP`, `UDP`, `ICMP`, `ICMPv6`, or a number; nil where the bytes are no IP header.
    public private(set) var transport: String?
    /// Of TCP and UDP; nil elsewhere, and in later fragments.
    public private(set) var sourcePort: UInt16?
    /// Of TCP and UDP.
    public private(set) var destinationPort: UInt16?

    /// Reads the head of a packet; 48 bytes hold all of it where there are no options.
    public init(_ head: [UInt8]) {
        switch head.first.map({ $0 >> 4 }) {
        case 4 where head.count >= 20: readIPv4(head)
        case 6 where head.count >= 40: readIPv6(head)
        default: break
        }
    }

    private mutating func readIPv4(_ head: [UInt8]) {
        source = .v4(IPv4Address(bits: PacketWords.number(head, at: 12)))
        destination = .v4(IPv4Address(bits: PacketWords.number(head, at: 16)))
        let isFirst = PacketWords.number16(head, at: 6).map { $0 & 0x1FFF == 0 } ?? false
        let headerBytes = Int(head.first ?? 0) % 16 * 4
        readTransport(head, PacketWords.byte(head, at: 9), at: isFirst ? headerBytes : nil)
    }

    private mutating func readIPv6(_ head: [UInt8]) {
        func address(at offset: Int) -> IPAddress {
            func half(_ offset: Int) -> UInt64 {
                UInt64(PacketWords.number(head, at: offset)) << 32
                    | UInt64(PacketWords.number(head, at: offset + 4))
            }
            return .v6(IPv6Address(high: half(offset), low: half(offset + 8)))
        }
        source = address(at: 8)
        destination = address(at: 24)
        readTransport(head, PacketWords.byte(head, at: 6), at: 40)
    }

    private mutating func readTransport(_ head: [UInt8], _ number: UInt8?, at offset: Int?) {
        guard let number else { return }
        let names: [UInt8: String] = [1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"]
        transport = names[number] ?? "protocol \(number)"
        guard number == 6 || number == 17, let offset else { return }
        sourcePort = PacketWords.number16(head, at: offset)
        destinationPort = PacketWords.number16(head, at: offset + 2)
    }

    private static func byte(_ bytes: [UInt8], at offset: Int) -> UInt8? { bytes.dropFirst(offset).first }

    private static func number16(_ bytes: [UInt8], at offset: Int) -> UInt16? {
        let two = bytes.dropFirst(offset).prefix(2)
        return two.count == 2 ? two.reduce(0) { $0 << 8 | UInt16($1) } : nil
    }

    private static func number(_ bytes: [UInt8], at offset: Int) -> UInt32 {
        bytes.dropFirst(offset).prefix(4).reduce(0) { $0 << 8 | UInt32($1) }
    }

    /// `10.66.2.7:443 > 10.66.3.9:51000 TCP`; `no IP packet` where the bytes are none.
    public var text: String {
        guard let source, let destination else { return "no IP packet" }
        func end(_ address: IPAddress, _ port: UInt16?) -> String {
            guard let port else { return "\(address)" }
            if case .v6 = address { return "[\(address)]:\(port)" }
            return "\(address):\(port)"
        }
        return "\(end(source, sourcePort)) > \(end(destination, destinationPort))"
            + (transport.map { " \($0)" } ?? "")
    }
}

extension Endpoint {
    /// Reads a socket's name that a packet's record has, of 32 bytes; nil where there is none.
    init?(recorded name: [UInt8]) {
        guard name.count >= 28 else { return nil }
        let found: Endpoint? = name.withUnsafeBytes { bytes in
            // An array's bytes are aligned to 16.
            guard let base = bytes.baseAddress, let address = IPAddress(socketName: base) else { return nil }
            return Endpoint(
                address: address,
                port: UInt16(bigEndian: base.loadUnaligned(fromByteOffset: 2, as: UInt16.self)))
        }
        guard let found else { return nil }
        self = found
    }
}
