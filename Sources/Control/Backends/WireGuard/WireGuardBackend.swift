package import Addresses
import Health
package import JSON
import Netlink
package import Reconciler

/// flannel's wireguard: the kernel encrypts each packet for the node that it goes to and sends it in a UDP datagram. Each node
/// has a key of its own, whose public half its lease tells.
package struct WireGuardBackend: Backend {
    package static let typeName = "wireguard"
    package static let announcedType: String? = "wireguard"
    package static let keys: Set<String> = [
        "listenport", "listenportv6", "mtu", "psk", "persistentkeepaliveinterval", "mode",
    ]
    package static let hasEndpointOfEachFamily = false
    package static let carriesIPv6 = false
    package static let hasDataPlane = false
    package static let needsPreparation = true

    /// flannel's name of the device.
    private static let deviceName = "flannel-wg"
    /// The bytes that flannel leaves for headers over both families: IPv6's header, 40, UDP's, 8, and WireGuard's: type 4,
    /// receiver 4, counter 8, authentication 16.
    private static let headerBytes = 80
    /// The outer packets that a configuration may ask for, in bytes: 80 more than the least inner one, 576, up to the
    /// largest that IPv4 has.
    private static let outerRange = 656...65_535
    /// What the kernel gives a device at first; what is wanted is set once there is a subnet.
    private static let firstMTU = 1420

    /// `Backend.ListenPort`: the UDP port.
    package private(set) var port: UInt16 = 51_820
    /// `Backend.MTU`: the largest outer packet in bytes; nil for the underlay's.
    private var outerMTU: Int?
    /// `Backend.PSK`: a secret of all nodes beside their keys; nil for none.
    private var presharedKey: WireGuardKey?
    /// `Backend.PersistentKeepaliveInterval`: after how many seconds without a packet an empty one is sent; 0 for never.
    private var keepaliveSeconds: UInt16 = 0

    /// flannel's wireguard as it is where a configuration says no more of it.
    package init() {}

    /// Reads the keys. `ListenPortV6` is that of IPv6, which is not carried.
    ///
    /// - Throws: `BackendError` that names the key and its rule, without the value of `PSK`.
    package init(reading settings: BackendSettings) throws(BackendError) {
        let portRule = "a port is needed (1 to 65535)"
        let ports = 1...Int(UInt16.max)
        if let port = try settings.integer("ListenPort", within: ports, rule: portRule) {
            self.port = UInt16(clamping: port)
        }
        _ = try settings.integer("ListenPortV6", within: ports, rule: portRule)
        outerMTU = try settings.integer(
            "MTU", within: Self.outerRange,
            rule: "the largest outer packet is needed (656 to 65535 bytes); pods get 80 less")
        let seconds = try settings.integer(
            "PersistentKeepaliveInterval", within: ports, rule: "seconds are needed (0 to 65535)")
        keepaliveSeconds = UInt16(clamping: seconds ?? 0)
        if let text = try settings.secret("PSK"), !text.isEmpty {
            guard let key = WireGuardKey(base64: text) else {
                throw BackendError("Backend.PSK is no key: wg genpsk makes one, 44 characters of base64")
            }
            presharedKey = key
        }
        try Self.readMode(settings)
    }

    /// One tunnel for both families differs from two only where the network has both.
    private static func readMode(_ settings: BackendSettings) throws(BackendError) {
        let mode = try settings.text("Mode") ?? "separate"
        guard ["separate", "auto", "ipv4", "ipv6"].contains(mode) else {
            throw BackendError(
                key: "Backend.Mode", .string(mode),
                rule: "separate, auto, ipv4 or ipv6 is needed, in lower case")
        }
        guard mode != "ipv6" else {
            throw BackendError(
                key: "Backend.Mode", .string(mode),
                rule:
                    "twill does not send IPv4 to the nodes' IPv6 addresses; set it to auto, ipv4 or separate")
        }
    }

    /// Reads a node's public key, and the port of its own.
    ///
    /// - Throws: `BackendError` where one of the two is none.
    package static func data(reading value: JSONValue?) throws(BackendError) -> (any BackendData)? {
        guard let value, case .object = value, let stated = value["PublicKey"] else { return nil }
        guard let key = stated.text.flatMap({ WireGuardKey(base64: $0) }) else {
            throw BackendError("BackendData.PublicKey is \(stated), which is no key of WireGuard's")
        }
        guard let stated = value["Port"], stated != .integer(0) else {
            return WireGuardData(publicKey: key, port: nil)
        }
        guard case .integer(let number) = stated, let port = UInt16(exactly: number) else {
            throw BackendError("BackendData.Port is \(stated), which is no port (1 to 65535)")
        }
        return WireGuardData(publicKey: key, port: port)
    }

    package func mtu(over _: AddressFamily) -> Int? { outerMTU.map { $0 &- Self.headerBytes } }
    package func overhead(over _: AddressFamily) -> Int { Self.headerBytes }

    package func interfaceName(in _: BackendPlace) -> String { Self.deviceName }

    /// Reads this node's key, or makes it, and has the kernel say its public half, for which the device is made: twill has no
    /// cryptography of its own.
    ///
    /// - Throws: `ItemProblem` where the kernel has no WireGuard, or the file of the key cannot be read or written.
    @available(*, noasync, message: "it blocks: use onThread")
    package func prepare(on machine: BackendMachine) throws -> BackendAnnouncement? {
        let secret = try WireGuardKeyFile(path: machine.keyFile).secret()
        let name = Self.deviceName
        let device = KernelDevice(
            interfaceName: name, kind: .wireguard, mtu: Self.firstMTU, alias: machine.alias)
        let socket = try RouteSocket()
        if let link = try socket.link(named: name) {
            _ = try device.differences(of: link)
        } else {
            try device.make(using: socket)
            if let link = try socket.link(named: name) {
                try socket.setLink(index: link.index, LinkChange(alias: machine.alias))
            }
        }
        let keys = try WireGuardSocket()
        try keys.configure(name, privateKey: secret)
        guard let key = try keys.device(named: name).publicKey else {
            throw ItemProblem(
                Problem(
                    .cutOff, "the kernel says no public key of \(name)",
                    remedy: "see wg show \(name); it is tried again"))
        }
        return BackendAnnouncement(WireGuardData(publicKey: key, port: port))
    }

    package func data(
        for _: IPPrefix, port _: UInt16?, prepared: BackendAnnouncement?
    ) -> (any BackendData)? {
        prepared?.value
    }

    package func refusal(of announced: BackendAnnouncement?) -> String? {
        announced?.value is WireGuardData ? nil : "its BackendData has no PublicKey to encrypt for"
    }

    /// The device with its keys, its address, its peers, and the network's route to it.
    package func desiredItems(in place: BackendPlace, peers: [BackendPeer]) -> [any DesiredItem] {
        guard let own = place.prepared?.value as? WireGuardData else { return [] }
        let name = Self.deviceName
        let device: [any DesiredItem] = [
            KernelDevice(interfaceName: name, kind: .wireguard, mtu: place.mtu, alias: place.alias),
            WireGuardPeers(
                interfaceName: name, publicKey: own.publicKey, keyFile: place.machine.keyFile, port: port,
                peers: peers, usualPort: port, presharedKey: presharedKey, keepaliveSeconds: keepaliveSeconds),
        ]
        return device + ForwardingDevice(interfaceName: name, family: .ipv4).desiredItems + [
            TunnelAddress(interfaceName: name, address: place.subnet.address),
            OverlayRoute(interfaceName: name, network: place.network),
        ]
    }
}

extension WireGuardBackend: CustomStringConvertible {
    /// `wireguard, port 51820, PSK`.
    package var description: String {
        "wireguard, port \(port)" + (presharedKey == nil ? "" : ", PSK")
    }
}

/// `{"PublicKey":"…","Port":51820}`.
package struct WireGuardData: BackendData {
    /// The node's public key.
    package var publicKey: WireGuardKey
    /// The port that it is reached at, host byte order; nil from an older flannel, for the network's.
    package var port: UInt16?

    package var json: String {
        "{\"PublicKey\":\"\(publicKey.base64)\"" + (port.map { ",\"Port\":\($0)" } ?? "") + "}"
    }
}
