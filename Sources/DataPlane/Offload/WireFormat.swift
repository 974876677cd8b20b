/// Offsets and bits of the headers that super-packets are made of (RFC 791, 8200, 9293, 768).
enum IPv4Wire {
    static let headerBytes = 20
    static let totalLength = 2
    static let identification = 4
    static let fragment = 6
    static let transport = 9
    static let checksum = 10
    static let addresses = 12
    /// Of the fragment field: more fragments, and the offset.
    static let fragmentBits: UInt16 = 0x3FFF
    static let dontFragment: UInt16 = 0x4000
}

enum IPv6Wire {
    static let headerBytes = 40
    static let payloadLength = 4
    static let transport = 6
    static let addresses = 8
    /// ICMPv6, which is no extension header.
    static let icmp: UInt8 = 58
}

enum TCPWire {
    static let number: UInt8 = 6
    static let headerBytes = 20
    static let sequence = 4
    static let flags = 12
    static let checksum = 16
    static let fin: UInt16 = 0x01
    static let syn: UInt16 = 0x02
    static let rst: UInt16 = 0x04
    static let psh: UInt16 = 0x08
    static let ack: UInt16 = 0x10
    static let urg: UInt16 = 0x20
    static let cwr: UInt16 = 0x80
    /// All of bytes 12 and 13 but the data offset.
    static let allFlags: UInt16 = 0x0FFF
}

enum UDPWire {
    static let number: UInt8 = 17
    static let headerBytes = 8
    static let length = 4
    static let checksum = 6
}
