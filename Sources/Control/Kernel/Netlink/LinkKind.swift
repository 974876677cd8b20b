public import Addresses

/// What makes a tunnel device of the kernel's the one that it is: none of it can be changed while the device exists, so that
/// another value asks for another device.
public enum LinkKind: Sendable, Hashable {
    /// Ethernet frames in UDP datagrams (RFC 7348).
    case vxlan(VXLANAttributes)
    /// IPv4 packets in IPv4 packets (RFC 2003).
    case ipip(IPIPAttributes)
    /// Encrypted packets in UDP datagrams. Keys, port and peers are set by `WireGuardSocket`, and can be changed.
    case wireguard

    /// How the kernel calls the kind (`IFLA_INFO_KIND`).
    public var name: String {
        switch self {
        case .vxlan: "vxlan"
        case .ipip: "ipip"
        case .wireguard: "wireguard"
        }
    }
}

/// An IPIP device (`IFLA_IPTUN_*` of linux/if_tunnel.h).
public struct IPIPAttributes: Sendable, Hashable {
    /// The source address of outer packets, and the destination of those that are taken in; nil for any.
    public var localAddress: IPv4Address?
    /// The one other end; nil where routes say which.
    public var remoteAddress: IPv4Address?

    /// Makes attributes.
    public init(localAddress: IPv4Address?, remoteAddress: IPv4Address? = nil) {
        self.localAddress = localAddress
        self.remoteAddress = remoteAddress
    }
}

/// `IFLA_INFO_*` of linux/if_link.h.
enum LinkInformation {
    static let kind = 1
    static let data = 2
}

/// `IFLA_IPTUN_*` of linux/if_tunnel.h.
private enum IPIPAttribute {
    static let localAddress = 2
    static let remoteAddress = 3
    /// Whether outer packets must not be cut; without, they are cut where the inner ones may be.
    static let findsPathMTU = 10
}

extension LinkKind {
    /// Decodes what stands under `IFLA_LINKINFO`; nil for a kind that twill does not make.
    init?(_ information: Attributes) {
        let data = information.nested(LinkInformation.data)
        switch information.text(LinkInformation.kind) {
        case "vxlan":
            guard let attributes = VXLANAttributes(data) else { return nil }
            self = .vxlan(attributes)
        case "ipip":
            func address(_ type: Int) -> IPv4Address? {
                IPAddress(wireBytes: data[type], family: Family.v4)?.v4.flatMap { $0 == .any ? nil : $0 }
            }
            self = .ipip(
                IPIPAttributes(
                    localAddress: address(IPIPAttribute.localAddress),
                    remoteAddress: address(IPIPAttribute.remoteAddress)))
        case "wireguard": self = .wireguard
        default: return nil
        }
    }

    /// Appends what stands under `IFLA_LINKINFO`.
    func append(to message: inout MessageWriter) {
        message.attribute(LinkInformation.kind, Array(name.utf8))
        switch self {
        case .vxlan(let attributes):
            message.nested(LinkInformation.data) { attributes.append(to: &$0) }
        case .ipip(let attributes):
            message.nested(LinkInformation.data) {
                if let address = attributes.localAddress {
                    $0.attribute(IPIPAttribute.localAddress, IPAddress.v4(address).wireBytes)
                }
                if let address = attributes.remoteAddress {
                    $0.attribute(IPIPAttribute.remoteAddress, IPAddress.v4(address).wireBytes)
                }
                $0.attribute(IPIPAttribute.findsPathMTU, [0])
            }
        case .wireguard: break
        }
    }
}
