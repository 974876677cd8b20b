public import Addresses
import CLinux
import Glibc

/// Requests to the kernel's WireGuard (linux/wireguard.h, by generic netlink) of the network namespace in which it was made.
public struct WireGuardSocket: Sendable {
    private let socket: RouteSocket
    private let family: MessageType

    /// Opens the socket in the network namespace of the calling thread.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number: `ENOENT` where it has no WireGuard.
    public init() throws(NetlinkError) {
        socket = try RouteSocket(protocolNumber: NETLINK_GENERIC)
        let request = Request.genericFamily(named: WireGuardWire.familyName)
        let numbers = try socket.list(request) { message -> UInt16? in
            guard message.type == .genericController else { return nil }
            return message.attributes(after: MessageLayout.genericSize)[GenericAttribute.familyIdentifier]?
                .number(at: 0, as: UInt16.self)
        }
        guard let number = numbers.first else {
            throw NetlinkError(operation: request.operation, code: EBADMSG, message: "the reply holds none")
        }
        family = MessageType(rawValue: number)
    }

    /// What a device is set to, and its peers.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number: `ENODEV` where there is no such WireGuard device.
    public func device(named name: String) throws(NetlinkError) -> WireGuardDevice {
        let family = family
        let parts = try socket.list(.wireGuardDevice(named: name, family: family)) {
            $0.type == family ? WireGuardDevice($0) : nil
        }
        return parts.reduce(into: WireGuardDevice()) { $0.append($1) }
    }

    /// Changes a device: what is nil, and every peer that is not named, stays as it is.
    ///
    /// - Parameters:
    ///   - name: the device's.
    ///   - privateKey: its own key, of which the kernel makes the public one.
    ///   - port: the UDP port that it is reached at, host byte order.
    ///   - peers: what is to be changed of them.
    /// - Throws: `NetlinkError` with the kernel's error number.
    public func configure(
        _ name: String, privateKey: WireGuardKey? = nil, port: UInt16? = nil,
        peers: [WireGuardPeerChange] = []
    ) throws(NetlinkError) {
        if peers.isEmpty {
            try perform(.setWireGuard(name, family: family, privateKey: privateKey, port: port, peers: []))
        }
        var rest = peers[...]
        var (privateKey, port) = (privateKey, port)
        while !rest.isEmpty {
            try perform(
                .setWireGuard(
                    name, family: family, privateKey: privateKey, port: port,
                    peers: rest.prefix(WireGuardWire.peersPerMessage)))
            rest = rest.dropFirst(WireGuardWire.peersPerMessage)
            (privateKey, port) = (nil, nil)
        }
    }

    private func perform(_ request: Request) throws(NetlinkError) {
        _ = try socket.list(request) { _ -> Never? in nil }
    }
}

/// What a WireGuard device is set to.
public struct WireGuardDevice: Sendable, Hashable {
    /// Its public key; nil where it has no private one.
    public var publicKey: WireGuardKey?
    /// The UDP port that it is reached at, host byte order.
    public var port: UInt16 = 0
    /// Its peers.
    public var peers: [WireGuardPeer] = []

    /// Makes a device that nothing is set of.
    public init() {}
}

/// A peer of a WireGuard device.
public struct WireGuardPeer: Sendable, Hashable {
    /// Its public key.
    public var key: WireGuardKey
    /// A secret of both ends beside their keys; nil for none.
    public var presharedKey: WireGuardKey?
    /// Where packets to it are sent; nil where it has not been heard of. The kernel follows a peer that sends from elsewhere.
    public var endpoint: Endpoint?
    /// After how many seconds without a packet an empty one is sent; 0 for never.
    public var keepaliveSeconds: UInt16
    /// What is sent to it, and taken from it.
    public var allowedPrefixes: [IPPrefix]
    /// When it last proved who it is, in seconds since 1970; 0 for never.
    public var lastHandshake: Int64 = 0

    /// Makes a peer that has not been heard of.
    public init(
        key: WireGuardKey, presharedKey: WireGuardKey? = nil, endpoint: Endpoint?,
        keepaliveSeconds: UInt16 = 0,
        allowedPrefixes: [IPPrefix]
    ) {
        self.key = key
        self.presharedKey = presharedKey
        self.endpoint = endpoint
        self.keepaliveSeconds = keepaliveSeconds
        self.allowedPrefixes = allowedPrefixes
    }
}

/// What is changed of a device's peers.
public enum WireGuardPeerChange: Sendable, Hashable {
    /// The peer is there and all of it is so; where it has no endpoint, that of before stays.
    case set(WireGuardPeer)
    /// It is gone.
    case remove(WireGuardKey)
}
