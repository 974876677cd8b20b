import Addresses
import Glibc

/// `GENL_*` and `CTRL_*` of linux/genetlink.h.
enum GenericAttribute {
    static let familyIdentifier = 1
    static let familyName = 2
    /// `CTRL_CMD_GETFAMILY`.
    static let getFamily: UInt8 = 3
}

/// linux/wireguard.h. Every number is in host byte order; socket names are as sockets have them.
enum WireGuardWire {
    static let familyName = "wireguard"
    static let version: UInt8 = 1
    /// A peer takes some 200 bytes, and an attribute holds 64 KiB.
    static let peersPerMessage = 128

    /// `WG_CMD_*`.
    enum Command {
        static let get: UInt8 = 0
        static let set: UInt8 = 1
    }

    /// `WGDEVICE_A_*`.
    enum Device {
        static let name = 2
        static let privateKey = 3
        static let publicKey = 4
        static let port = 6
        static let peers = 8
    }

    /// `WGPEER_A_*`, and `WGPEER_F_*` under `flags`.
    enum Peer {
        static let publicKey = 1
        static let presharedKey = 2
        static let flags = 3
        static let endpoint = 4
        static let keepalive = 5
        static let lastHandshake = 6
        static let allowedPrefixes = 9

        static let removes: UInt32 = 1
        static let replacesAllowedPrefixes: UInt32 = 2
    }

    /// `WGALLOWEDIP_A_*`.
    enum Allowed {
        static let family = 1
        static let address = 2
        static let length = 3
    }

    /// An element of a list of nested attributes has no number of its own.
    static let element = 0
}

extension Request {
    static func genericFamily(named name: String) -> Request {
        Request("look up the netlink family \(name)", .genericController, .acknowledge) {
            $0.appendCommand(GenericAttribute.getFamily)
            $0.attribute(GenericAttribute.familyName, name)
        }
    }

    static func wireGuardDevice(named name: String, family: MessageType) -> Request {
        Request("list the peers of \(name)", family, .dump) {
            $0.appendCommand(WireGuardWire.Command.get)
            $0.attribute(WireGuardWire.Device.name, name)
        }
    }

    static func setWireGuard(
        _ name: String, family: MessageType, privateKey: WireGuardKey?, port: UInt16?,
        peers: some Collection<WireGuardPeerChange>
    ) -> Request {
        Request("set the keys and peers of \(name)", family, .acknowledge) {
            $0.appendCommand(WireGuardWire.Command.set)
            $0.attribute(WireGuardWire.Device.name, name)
            if let privateKey { $0.attribute(WireGuardWire.Device.privateKey, privateKey.bytes) }
            if let port { $0.attribute(WireGuardWire.Device.port, port) }
            guard !peers.isEmpty else { return }
            $0.markedNested(WireGuardWire.Device.peers) {
                for peer in peers {
                    $0.markedNested(WireGuardWire.element) { $0.append(peer) }
                }
            }
        }
    }
}

extension MessageWriter {
    /// Appends a `struct genlmsghdr`: command 1, version 1, reserved 2. The controller's version is the same as WireGuard's.
    fileprivate mutating func appendCommand(_ command: UInt8) {
        append(command)
        append(WireGuardWire.version)
        append(UInt16(0))
    }

    /// Appends an attribute that is a 16-bit number.
    fileprivate mutating func attribute(_ type: Int, _ value: UInt16) {
        withUnsafeBytes(of: value) { attribute(type, Array($0)) }
    }

    /// Appends an attribute that holds what `body` appends, with the mark that newer families ask for.
    fileprivate mutating func markedNested(_ type: Int, _ body: (inout MessageWriter) -> Void) {
        nested(type | MessageLayout.nestedMark, body)
    }

    fileprivate mutating func append(_ change: WireGuardPeerChange) {
        switch change {
        case .remove(let key):
            attribute(WireGuardWire.Peer.publicKey, key.bytes)
            attribute(WireGuardWire.Peer.flags, WireGuardWire.Peer.removes)
        case .set(let peer):
            attribute(WireGuardWire.Peer.publicKey, peer.key.bytes)
            // Zeros stand for none.
            let presharedKey = peer.presharedKey?.bytes ?? [UInt8](repeating: 0, count: WireGuardKey.count)
            attribute(WireGuardWire.Peer.presharedKey, presharedKey)
            if let endpoint = peer.endpoint {
                let name = endpoint.withSocketName {
                    Array(UnsafeRawBufferPointer(start: $0, count: Int($1)))
                }
                attribute(WireGuardWire.Peer.endpoint, name)
            }
            attribute(WireGuardWire.Peer.keepalive, peer.keepaliveSeconds)
            attribute(WireGuardWire.Peer.flags, WireGuardWire.Peer.replacesAllowedPrefixes)
            markedNested(WireGuardWire.Peer.allowedPrefixes) {
                for prefix in peer.allowedPrefixes {
                    $0.markedNested(WireGuardWire.element) {
                        $0.attribute(WireGuardWire.Allowed.family, UInt16(prefix.address.family))
                        $0.attribute(WireGuardWire.Allowed.address, prefix.address.wireBytes)
                        $0.attribute(WireGuardWire.Allowed.length, [UInt8(clamping: prefix.length)])
                    }
                }
            }
        }
    }
}

extension WireGuardDevice {
    /// Decodes one part of the answer: a device of many peers is told in several, of which the first alone says what the
    /// device is set to.
    init?(_ message: Message) {
        guard message.payload.count >= MessageLayout.genericSize else { return nil }
        let attributes = message.attributes(after: MessageLayout.genericSize)
        publicKey = attributes[WireGuardWire.Device.publicKey].flatMap { WireGuardKey($0) }
        port = attributes[WireGuardWire.Device.port]?.number(at: 0, as: UInt16.self) ?? 0
        peers = attributes.elements(WireGuardWire.Device.peers).compactMap { WireGuardPeer($0) }
    }

    /// Takes the next part in. A peer of very many prefixes goes on in it.
    mutating func append(_ part: WireGuardDevice) {
        publicKey = publicKey ?? part.publicKey
        if port == 0 { port = part.port }
        var more = part.peers[...]
        if var last = peers.last, let first = more.first, first.key == last.key {
            last.allowedPrefixes += first.allowedPrefixes
            peers = peers.dropLast() + [last]
            more = more.dropFirst()
        }
        peers += more
    }
}

extension WireGuardPeer {
    /// Decodes a peer; nil where it has no key.
    init?(_ attributes: Attributes) {
        guard let key = attributes[WireGuardWire.Peer.publicKey].flatMap({ WireGuardKey($0) }) else {
            return nil
        }
        let prefixes = attributes.elements(WireGuardWire.Peer.allowedPrefixes).compactMap {
            element -> IPPrefix? in
            guard let family = element[WireGuardWire.Allowed.family]?.number(at: 0, as: UInt16.self),
                let length = element[WireGuardWire.Allowed.length]?.first,
                let address = IPAddress(
                    wireBytes: element[WireGuardWire.Allowed.address],
                    family: UInt8(exactly: family) ?? Family.unspecified),
                length <= address.bitWidth
            else { return nil }
            return IPPrefix(address, length: Int(length))
        }
        self.init(
            key: key,
            presharedKey: attributes[WireGuardWire.Peer.presharedKey].flatMap { WireGuardKey($0) }
                .flatMap { $0.isZero ? nil : $0 },
            endpoint: attributes[WireGuardWire.Peer.endpoint].flatMap { Endpoint(nameBytes: $0) },
            keepaliveSeconds: attributes[WireGuardWire.Peer.keepalive]?.number(at: 0, as: UInt16.self) ?? 0,
            allowedPrefixes: prefixes)
        // `struct __kernel_timespec`: seconds 8, nanoseconds 8.
        lastHandshake = attributes[WireGuardWire.Peer.lastHandshake]?.number(at: 0, as: Int64.self) ?? 0
    }
}

extension Endpoint {
    /// Reads a socket's name out of a message; nil where it is of neither family, or too short for it.
    fileprivate init?(nameBytes bytes: ArraySlice<UInt8>) {
        let family = bytes.number(at: 0, as: UInt16.self).map(Int32.init)
        let needed = family == AF_INET ? SocketName.bytesIPv4 : SocketName.bytesIPv6
        guard family == AF_INET || family == AF_INET6, bytes.count >= needed else { return nil }
        var room = (UInt64(0), UInt64(0), UInt64(0), UInt64(0))
        let read = withUnsafeMutableBytes(of: &room) { room -> Endpoint? in
            room.copyBytes(from: bytes.prefix(SocketName.room))
            return room.baseAddress.flatMap { Endpoint(socketName: $0) }
        }
        guard let read else { return nil }
        self = read
    }
}

extension Attributes {
    /// The elements of a list: nested attributes inside of one, whose own numbers mean nothing.
    func elements(_ type: Int) -> [Attributes] {
        var elements: [Attributes] = []
        var rest = self[type] ?? []
        while let length = rest.number(at: 0, as: UInt16.self).map(Int.init),
            length >= MessageLayout.attributeHeaderSize, length <= rest.count
        {
            elements.append(
                Attributes(rest.prefix(length).dropFirst(MessageLayout.attributeHeaderSize)))
            rest = rest.dropFirst(MessageLayout.aligned(length))
        }
        return elements
    }
}
