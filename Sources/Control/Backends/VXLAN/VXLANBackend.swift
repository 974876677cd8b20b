package import Addresses
package import JSON
import Netlink
package import Reconciler

/// flannel's vxlan: the kernel carries each packet as an Ethernet frame in a UDP datagram (RFC 7348), by a device with
/// an entry for each peer.
package struct VXLANBackend: Backend {
    package static let typeName = "vxlan"
    package static let announcedType: String? = "vxlan"
    package static let keys: Set<String> = [
        "vni", "port", "mtu", "gbp", "learning", "directrouting", "macprefix", "name",
    ]
    package static let hasEndpointOfEachFamily = true
    package static let hasDataPlane = false

    /// The bytes of a datagram's header, 8, of VXLAN's, 8, and of the inner frame's, 14 (RFC 768, RFC 7348, IEEE 802.3).
    private static let headerBytes = 30
    /// The outer packets that a configuration may ask for, in bytes: 50 more than the least inner one, 576, up to the
    /// largest that IPv4 has.
    private static let outerRange = 626...65_535

    /// `Backend.VNI`: the network's number.
    package private(set) var networkIdentifier: UInt32 = 1
    /// `Backend.Port`: the UDP port. 8472 is what Linux takes where none is said.
    package private(set) var port: UInt16 = 8472
    /// `Backend.GBP`: whether packets carry a group policy's mark.
    private var hasGroupPolicy = false
    /// `Backend.Learning`: whether the device learns from packets where hardware addresses are.
    private var learns = false
    /// `Backend.DirectRouting`: whether nodes on the underlay's link are reached without a tunnel.
    private var routesDirectly = false
    /// `Backend.MTU`: the largest outer packet in bytes; nil for the underlay's.
    private var outerMTU: Int?

    /// flannel's vxlan as it is where a configuration says no more of it.
    package init() {}

    /// Reads the keys. `MacPrefix` and `Name` are Windows' alone, as with flanneld.
    ///
    /// - Throws: `BackendError` that names the key and its rule.
    package init(reading settings: BackendSettings) throws(BackendError) {
        let identifier = try settings.integer(
            "VNI", within: 1...0xFF_FFFF, rule: "a VXLAN network identifier is needed (1 to 16777215)")
        if let identifier = identifier.flatMap({ UInt32(exactly: $0) }) { networkIdentifier = identifier }
        let port = try settings.integer(
            "Port", within: 1...Int(UInt16.max), rule: "a port is needed (1 to 65535)")
        if let port = port.flatMap({ UInt16(exactly: $0) }) { self.port = port }
        hasGroupPolicy = try settings.bool("GBP") ?? false
        learns = try settings.bool("Learning") ?? false
        routesDirectly = try settings.bool("DirectRouting") ?? false
        outerMTU = try settings.integer(
            "MTU", within: Self.outerRange,
            rule: "the largest outer packet is needed (626 to 65535 bytes); pods get 50 less")
        _ = try settings.text("MacPrefix")
        _ = try settings.text("Name")
    }

    /// Reads the hardware address behind which a node is.
    ///
    /// - Throws: `BackendError` where it is none, or the network's number is none.
    package static func data(reading value: JSONValue?) throws(BackendError) -> (any BackendData)? {
        guard let value, case .object = value else { return nil }
        var identifier: UInt32 = 1
        if let stated = value["VNI"] {
            guard case .integer(let number) = stated, let parsed = UInt32(exactly: number) else {
                throw BackendError("BackendData.VNI is \(stated), which is no VXLAN network identifier")
            }
            identifier = parsed
        }
        guard let stated = value["VtepMAC"] else { return nil }
        guard let address = stated.text.flatMap({ HardwareAddress($0) }), address.isUnicast else {
            throw BackendError(
                "BackendData.VtepMAC is \(stated), which is no hardware address of an interface")
        }
        return VXLANData(networkIdentifier: identifier, hardwareAddress: address)
    }

    package func mtu(over family: AddressFamily) -> Int? { outerMTU.map { $0 &- overhead(over: family) } }

    /// The network's number and the device's hardware address.
    package func data(for subnet: IPPrefix, port _: UInt16?) -> (any BackendData)? {
        VXLANData(networkIdentifier: networkIdentifier, hardwareAddress: hardwareAddress(of: subnet))
    }

    package func refusal(of announced: BackendAnnouncement?) -> String? {
        guard let data = announced?.value as? VXLANData else {
            return "its BackendData has no VtepMAC, the hardware address to send to"
        }
        guard data.networkIdentifier == networkIdentifier else {
            return "its VNI is \(data.networkIdentifier), and this network's is \(networkIdentifier)"
        }
        return nil
    }

    package func overhead(over family: AddressFamily) -> Int { family.headerBytes &+ Self.headerBytes }

    /// `flannel.1`, and for IPv6 `flannel-v6.1`, as flannel calls them.
    package func interfaceName(in place: BackendPlace) -> String {
        switch place.network {
        case .v4: "flannel.\(networkIdentifier)"
        case .v6: "flannel-v6.\(networkIdentifier)"
        }
    }

    /// The hardware address of a node's device, which follows from its subnet: it is the same after every restart, no two
    /// nodes have one, and it is known before there is a device. One that nobody gave out (the second bit of the first
    /// byte).
    ///
    /// - Parameter subnet: the node's, of the family that the device carries.
    func hardwareAddress(of subnet: IPPrefix) -> HardwareAddress {
        // FNV-1a of 64 bits: nearby subnets shall not have nearby addresses, which others may derive by a simpler rule.
        let hash = "\(networkIdentifier) \(subnet)".utf8.reduce(UInt64(0xCBF2_9CE4_8422_2325)) {
            ($0 ^ UInt64($1)) &* 0x100_0000_01B3
        }
        let folded = (hash ^ hash >> 48) & 0xFCFF_FFFF_FFFF
        return HardwareAddress(bits: folded | 0x0200_0000_0000)
    }

    /// The device with its address, an entry for each peer in its two tables, and a route to each.
    package func desiredItems(in place: BackendPlace, peers: [BackendPeer]) -> [any DesiredItem] {
        let name = interfaceName(in: place)
        let device = KernelDevice(
            interfaceName: name,
            kind: .vxlan(
                VXLANAttributes(
                    identifier: networkIdentifier, lowerIndex: place.underlayIndex,
                    localAddress: place.underlayAddress, port: port, learns: learns,
                    hasGroupPolicy: hasGroupPolicy)),
            hardwareAddress: hardwareAddress(of: place.subnet), mtu: place.mtu, alias: place.alias)
        let items: [any DesiredItem] = [device]
        return items + ForwardingDevice(interfaceName: name, family: place.network.addressFamily).desiredItems
            + [
                TunnelAddress(interfaceName: name, address: place.subnet.address),
                VXLANPeers(interfaceName: name, peers: peers),
                PeerRoutes(
                    network: place.network, interfaceName: name, isOnLink: true,
                    directInterfaceName: routesDirectly ? place.underlayName : nil,
                    gateways: Dictionary(
                        peers.map { ($0.subnet, $0.subnet.address) }, uniquingKeysWith: { first, _ in first }),
                    addresses: Dictionary(
                        peers.map { ($0.subnet, $0.address) }, uniquingKeysWith: { first, _ in first }),
                    remedy: "see ip -d link show \(name); it is tried again every few seconds"),
                NoFormerRoutes(interfaceName: name, wanted: Set(peers.map(\.subnet))),
            ]
    }

    package func hops(to peer: BackendPeer, in place: BackendPlace) -> [BackendHop]? {
        let tunnel = BackendHop(interfaceName: interfaceName(in: place), gateway: peer.subnet.address)
        guard routesDirectly else { return [tunnel] }
        return [tunnel, BackendHop(interfaceName: place.underlayName, gateway: peer.address)]
    }
}

extension VXLANBackend: CustomStringConvertible {
    /// `vxlan, VNI 1, port 8472`.
    package var description: String {
        "vxlan, VNI \(networkIdentifier), port \(port)" + (routesDirectly ? ", direct routing" : "")
    }
}

/// `{"VNI":1,"VtepMAC":"0a:58:0a:42:1c:00"}`.
package struct VXLANData: BackendData {
    /// The network's number; one that says none is of the first.
    package var networkIdentifier: UInt32
    /// Where frames for the node are sent to.
    package var hardwareAddress: HardwareAddress

    package var json: String { "{\"VNI\":\(networkIdentifier),\"VtepMAC\":\"\(hardwareAddress)\"}" }
    package var port: UInt16? { nil }
}
