public import Addresses

/// A VXLAN device (`IFLA_VXLAN_*` of linux/if_link.h).
public struct VXLANAttributes: Sendable, Hashable {
    /// The network's number (VNI), 24 bits.
    public var identifier: UInt32
    /// The interface that outer packets leave by; nil where the routes decide.
    public var lowerIndex: Int32?
    /// The source address of outer packets; nil where the kernel chooses. Its family is the underlay's.
    public var localAddress: IPAddress?
    /// The UDP port that packets go to and are taken in at, host byte order.
    public var port: UInt16
    /// Whether the device learns where hardware addresses are from the packets that come in.
    public var learns: Bool
    /// Whether packets carry a group policy's mark (VXLAN-GBP).
    public var hasGroupPolicy: Bool

    /// Makes attributes.
    public init(
        identifier: UInt32, lowerIndex: Int32?, localAddress: IPAddress?, port: UInt16, learns: Bool = false,
        hasGroupPolicy: Bool = false
    ) {
        self.identifier = identifier
        self.lowerIndex = lowerIndex
        self.localAddress = localAddress
        self.port = port
        self.learns = learns
        self.hasGroupPolicy = hasGroupPolicy
    }
}

/// `IFLA_VXLAN_*` of linux/if_link.h.
enum VXLANAttribute {
    static let identifier = 1
    static let lowerInterface = 3
    static let localIPv4 = 4
    static let learning = 7
    /// 16 bits in network byte order.
    static let port = 15
    static let localIPv6 = 17
    /// Without contents: there or not.
    static let groupPolicy = 23
}

extension VXLANAttributes {
    /// Decodes what stands under `IFLA_INFO_DATA` of a VXLAN device.
    init?(_ attributes: Attributes) {
        guard let identifier = attributes.number(VXLANAttribute.identifier),
            let port = attributes[VXLANAttribute.port]?.number(at: 0, as: UInt16.self)
        else { return nil }
        let local =
            IPAddress(wireBytes: attributes[VXLANAttribute.localIPv4], family: Family.v4)
            ?? IPAddress(wireBytes: attributes[VXLANAttribute.localIPv6], family: Family.v6)
        let lower = attributes.number(VXLANAttribute.lowerInterface).map { Int32(bitPattern: $0) }
        self.init(
            identifier: identifier, lowerIndex: lower == 0 ? nil : lower,
            localAddress: local == .v4(.any) || local == .v6(.any) ? nil : local,
            port: UInt16(bigEndian: port), learns: attributes[VXLANAttribute.learning]?.first ?? 0 != 0,
            hasGroupPolicy: attributes[VXLANAttribute.groupPolicy] != nil)
    }

    /// Appends the attributes.
    func append(to message: inout MessageWriter) {
        if let lowerIndex {
            message.attribute(VXLANAttribute.lowerInterface, UInt32(bitPattern: lowerIndex))
        }
        message.attribute(VXLANAttribute.identifier, identifier)
        switch localAddress {
        case .v4: message.attribute(VXLANAttribute.localIPv4, localAddress?.wireBytes ?? [])
        case .v6: message.attribute(VXLANAttribute.localIPv6, localAddress?.wireBytes ?? [])
        case nil: break
        }
        message.attribute(VXLANAttribute.learning, [learns ? 1 : 0])
        message.attribute(VXLANAttribute.port, withUnsafeBytes(of: port.bigEndian) { Array($0) })
        if hasGroupPolicy { message.attribute(VXLANAttribute.groupPolicy, []) }
    }
}
