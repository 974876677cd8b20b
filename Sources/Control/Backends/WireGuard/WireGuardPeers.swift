internal import Addresses
import Glibc
import Health
import Netlink
internal import Reconciler

/// The device has this node's key and port, and exactly the peers that there are. Of changes of these the kernel tells nobody:
/// they are looked at with each resync. They end with the device.
struct WireGuardPeers: KeptItem {
    /// How many peers a sentence names.
    private static let namedPeers = 3
    /// After how many seconds without a proof of who it is a peer counts as one that is no longer there (WireGuard's
    /// REJECT_AFTER_TIME). One that has given it since may send from elsewhere than its lease says, behind a NAT: there the
    /// kernel follows it, and is left to.
    static let handshakeLifeSeconds: Int64 = 180

    let interfaceName: String
    /// The public key that others are told.
    let publicKey: WireGuardKey
    let keyFile: String
    let port: UInt16
    /// In the order of their subnets.
    private let wanted: [WireGuardPeer]
    /// Subnets whose nodes announce a key that another has, or this node: they get nothing.
    private let clashes: [String]

    init(
        interfaceName: String, publicKey: WireGuardKey, keyFile: String, port: UInt16, peers: [BackendPeer],
        usualPort: UInt16, presharedKey: WireGuardKey?, keepaliveSeconds: UInt16
    ) {
        self.interfaceName = interfaceName
        self.publicKey = publicKey
        self.keyFile = keyFile
        self.port = port
        var wanted: [WireGuardPeer] = []
        var keys: Set = [publicKey]
        var clashes: [String] = []
        for peer in peers {
            guard let announced = peer.announced?.value as? WireGuardData else { continue }
            guard keys.insert(announced.publicKey).inserted else {
                clashes.append("\(peer.subnet) at \(peer.address)")
                continue
            }
            wanted.append(
                WireGuardPeer(
                    key: announced.publicKey, presharedKey: presharedKey,
                    endpoint: Endpoint(address: peer.address, port: announced.port ?? usualPort),
                    keepaliveSeconds: keepaliveSeconds, allowedPrefixes: [peer.subnet]))
        }
        self.wanted = wanted
        self.clashes = clashes
    }

    var name: String { "peers of \(interfaceName)" }
    var component: Component { Component(.tunnel, "peers of \(interfaceName)") }
    var needsResync: Bool { true }

    /// What is to be changed of the peers of a device: those that are to go first, since a prefix is one peer's.
    ///
    /// - Parameter now: seconds since 1970.
    func changes(to device: WireGuardDevice, now: Int64) -> [WireGuardPeerChange] {
        var present: [WireGuardKey: WireGuardPeer] = [:]
        for peer in device.peers { present[peer.key] = peer }
        let keys = Set(wanted.map(\.key))
        let gone = device.peers.filter { !keys.contains($0.key) }.map { WireGuardPeerChange.remove($0.key) }
        let others = wanted.filter { peer in
            guard let there = present[peer.key] else { return true }
            let isHeardOf = there.endpoint != nil && now &- there.lastHandshake < Self.handshakeLifeSeconds
            return there.presharedKey != peer.presharedKey || there.keepaliveSeconds != peer.keepaliveSeconds
                || Set(there.allowedPrefixes) != Set(peer.allowedPrefixes)
                || there.endpoint != peer.endpoint && !isHeardOf
        }
        return gone + others.map { .set($0) }
    }

    private func differences(of device: WireGuardDevice, now: Int64) -> [String] {
        var words: [String] = []
        if device.publicKey != publicKey { words.append("another key") }
        if device.port != port { words.append("port \(device.port) instead of \(port)") }
        let changes = changes(to: device, now: now)
        let names = changes.prefix(Self.namedPeers).map { change in
            switch change {
            case .set(let peer): "\(peer.allowedPrefixes.map { "\($0)" }.joined()) to be set"
            case .remove(let key): "the peer \(key.base64) not wanted"
            }
        }
        words += names
        if changes.count > names.count { words.append("\(changes.count &- names.count) more") }
        if !clashes.isEmpty { words.append("\(clashes.count) with another's key") }
        return words
    }

    func deviation(in state: NetworkState) throws -> String? {
        _ = try state.device(interfaceName)
        let differences = differences(
            of: try WireGuardSocket().device(named: interfaceName), now: Int64(time(nil)))
        return differences.isEmpty ? nil : differences.joined(separator: ", ")
    }

    func update(in _: NetworkState, using _: RouteSocket) throws {
        let socket = try WireGuardSocket()
        var device = try socket.device(named: interfaceName)
        if device.publicKey != publicKey {
            guard let secret = try WireGuardKeyFile(path: keyFile).read() else {
                throw keyProblem("\(keyFile), which has this node's private key, is gone")
            }
            try socket.configure(interfaceName, privateKey: secret)
            device = try socket.device(named: interfaceName)
            guard device.publicKey == publicKey else {
                throw keyProblem("\(keyFile) has another private key than the one that others are told of")
            }
        }
        try socket.configure(
            interfaceName, port: device.port == port ? nil : port,
            peers: changes(to: device, now: Int64(time(nil))))
        guard clashes.isEmpty else {
            throw ItemProblem(
                Problem(
                    .degraded,
                    "nodes announce a key that is another's, and get no packets: "
                        + clashes.prefix(Self.namedPeers).joined(separator: ", "),
                    remedy:
                        "on each of them take the file with the key away (/run/flannel/wgkey) and restart its daemon; a "
                        + "machine's copy has the original's"))
        }
    }

    private func keyProblem(_ cause: String) -> ItemProblem {
        ItemProblem(
            Problem(
                .cutOff, cause, remedy: "restart twilld, which then tells the others of the key that there is"
            ))
    }
}
