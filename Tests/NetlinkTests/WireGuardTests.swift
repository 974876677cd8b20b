import Addresses
import Testing

@testable import Netlink

/// WireGuard's netlink, byte for byte. The frames are those of wg(8) of wireguard-tools 1.0.20210914, taken with a library in
/// the kernel's place, since not every kernel that runs this has WireGuard; sequence number set to 7, and the family's number
/// as if it were 30.
@Suite struct WireGuardTests {
    private static let family = MessageType(rawValue: 0x1e)
    private static let peerKey = WireGuardKey(base64: "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=")!
    private static let peerWords =
        "2400 0100 c53201039adba14be71f886da1d8dbe9eebded08cb111b75340078999aa9f038"

    private func frame(_ request: Request) -> [UInt8] { request.message.finish(sequence: 7) }

    private static let deviceFrame = bytes(
        """
        e4000000 1e00 0500 07000000 00000000  01 01 0000
        0f00 0200 666c616e6e656c2d776700 00
        2400 0300 6009f3e5317e9575c9b5ed78b638b7ce530d7ed7edde7196e97c8c6df1f66251
        0600 0600 6cca 0000
        9400 0880 9000 0080 \(peerWords)
        2400 0200 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
        1400 0400 0200 ca6c c6120903 0000000000000000
        0600 0500 1900 0000  0800 0300 02000000
        2000 0980 1c00 0080  0600 0100 0200 0000  0800 0200 0a420300  0500 0300 18 000000
        """)

    private static var peer: WireGuardPeer {
        WireGuardPeer(
            key: peerKey, presharedKey: WireGuardKey((0..<32).map { UInt8($0) })!,
            endpoint: Endpoint(address: IPv4Address(198, 18, 9, 3), port: 51_820), keepaliveSeconds: 25,
            allowedPrefixes: [.v4(IPv4Prefix("10.66.3.0/24")!)])
    }

    @Test func theFamilyIsLookedUpAsWGDoes() {
        #expect(
            frame(.genericFamily(named: "wireguard"))
                == bytes(
                    "24000000 1000 0500 07000000 00000000  03 01 0000  0e00 0200 776972656775617264 00 0000"))
    }

    @Test func keyPortAndAPeerAreSetAsWGSetsThem() {
        let request = Request.setWireGuard(
            "flannel-wg", family: Self.family,
            privateKey: WireGuardKey(base64: "YAnz5TF+lXXJte14tji3zlMNftft3nGW6XyMbfH2YlE="), port: 51_820,
            peers: [.set(Self.peer)])
        #expect(frame(request) == Self.deviceFrame)
        #expect(request.operation == "set the keys and peers of flannel-wg")
    }

    @Test func aPeerIsRemovedAsWGRemovesIt() {
        let request = Request.setWireGuard(
            "flannel-wg", family: Self.family, privateKey: nil, port: nil, peers: [.remove(Self.peerKey)])
        #expect(
            frame(request)
                == bytes(
                    """
                    58000000 1e00 0500 07000000 00000000  01 01 0000
                    0f00 0200 666c616e6e656c2d776700 00
                    3400 0880 3000 0080 \(Self.peerWords)  0800 0300 01000000
                    """))
    }

    /// `wg set … preshared-key /dev/null persistent-keepalive 0`: what is not there is said to be so.
    @Test func anIPv6PeerWithoutASecretIsSetAsWGSetsIt() {
        let peer = WireGuardPeer(
            key: Self.peerKey, endpoint: Endpoint(address: IPAddress("fd00::3")!, port: 51_821),
            allowedPrefixes: [.v6(IPv6Prefix("fd00:66:3::/64")!)])
        let request = Request.setWireGuard(
            "flannel-wg", family: Self.family, privateKey: nil, port: nil, peers: [.set(peer)])
        #expect(
            frame(request)
                == bytes(
                    """
                    d0000000 1e00 0500 07000000 00000000  01 01 0000
                    0f00 0200 666c616e6e656c2d776700 00
                    ac00 0880 a800 0080 \(Self.peerWords)
                    2400 0200 0000000000000000000000000000000000000000000000000000000000000000
                    2000 0400 0a00 ca6d 00000000 fd000000000000000000000000000003 00000000
                    0600 0500 0000 0000  0800 0300 02000000
                    2c00 0980 2800 0080  0600 0100 0a00 0000  1400 0200 fd000066000300000000000000000000
                    0500 0300 40 000000
                    """))
    }

    /// The kernel answers in the form of a request; with many peers in several messages, of which one may go on with the
    /// last peer of that before.
    @Test func anAnswerInPartsIsOneDevice() throws {
        let first = try #require(Message.all(in: Self.deviceFrame)?.first)
        let part = try #require(WireGuardDevice(first))
        #expect(part.port == 51_820 && part.publicKey == nil && part.peers == [Self.peer])
        var device = WireGuardDevice()
        device.append(part)
        var more = Self.peer
        more.allowedPrefixes = [.v4(IPv4Prefix("10.66.4.0/24")!)]
        var next = WireGuardDevice()
        next.peers = [more]
        device.append(next)
        #expect(device.port == 51_820 && device.peers.count == 1)
        #expect(device.peers[0].allowedPrefixes.map { "\($0)" } == ["10.66.3.0/24", "10.66.4.0/24"])
    }

    /// What a message holds of others' bytes is cut off anywhere: nothing traps, and a peer that is whole is one.
    @Test func anAnswerThatIsCutIsNoCrash() throws {
        for count in 16..<Self.deviceFrame.count {
            var frame = Array(Self.deviceFrame.prefix(count))
            frame[0] = UInt8(count)
            guard let message = Message.all(in: frame)?.first else { continue }
            #expect((WireGuardDevice(message)?.peers.count ?? 0) <= 1)
        }
    }

    @Test(arguments: [
        "", "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg", "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dh=",
        "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8D==", " TIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
        "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\n", "ÿTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
    ])
    func whatIsNoKeyIsNone(text: String) { #expect(WireGuardKey(base64: text) == nil) }

    @Test func keysAreReadAsTheyAreWrittenAndNotPrinted() throws {
        for number in UInt8.min...UInt8.max {
            let key = try #require(WireGuardKey((0..<32).map { number &+ $0 &* 7 }))
            #expect(WireGuardKey(base64: key.base64) == key)
            #expect(!"\(key)".contains(key.base64))
        }
        #expect(WireGuardKey([UInt8](repeating: 0, count: 31)) == nil)
        #expect(
            WireGuardKey([UInt8](repeating: 255, count: 32))?.base64 == String(repeating: "/", count: 42)
                + "8=")
    }

    // MARK: Devices

    @Test func aWireGuardDeviceIsMadeAsIPMakesIt() {
        #expect(
            frame(.addLink(named: "flannel-wg", mtu: 1420, hardwareAddress: nil, .wireguard))
                == bytes(
                    """
                    4c000000 1000 0506 07000000 00000000  00 00 0000 00000000 00000000 00000000
                    0800 0400 8c050000  0f00 0300 666c616e6e656c2d776700 00
                    1400 1200 0d00 0100 776972656775617264 000000
                    """))
    }

    /// ip(8) sends more attributes, which all are 0, and reads the same out of them.
    @Test func anIPIPDeviceIsWhatIPMakes() throws {
        let kind = LinkKind.ipip(IPIPAttributes(localAddress: IPv4Address(10, 0, 0, 1)))
        #expect(
            frame(.addLink(named: "flannel.ipip", mtu: 1480, hardwareAddress: nil, kind))
                == bytes(
                    """
                    5c000000 1000 0506 07000000 00000000  00 00 0000 00000000 00000000 00000000
                    0800 0400 c8050000  1100 0300 666c616e6e656c2e6970697000 000000
                    2000 1200 0800 0100 69706970  1400 0200 0800 0200 0a000001  0500 0a00 00 000000
                    """))
        let theirs = bytes(
            """
            a4000000 1000 0506 07000000 00000000  00 00 0000 00000000 00000000 00000000
            0800 0400 c8050000  1100 0300 666c616e6e656c2e6970697000 000000
            6800 1200 0800 0100 69706970  5c00 0200 0500 0900 00000000  0800 0200 0a000001  0500 0a00 00000000
            0500 0500 00000000  0500 0400 00000000  0800 0100 00000000  0800 1400 00000000
            0600 0f00 00000000  0600 1000 00000000  0600 1100 00000000  0600 1200 00000000
            """)
        let message = try #require(Message.all(in: theirs)?.first)
        let information = message.attributes(after: MessageLayout.linkSize).nested(LinkAttribute.information)
        #expect(LinkKind(information) == kind)
    }
}
