import Addresses
import Glibc
import NetworkNamespaces
import Testing

@testable import Devices

/// The underlay's sockets over IPv6.
@Suite(
    .enabled(if: namespacesAreExpected, "network namespaces need root and iproute2"), .timeLimit(.minutes(1)))
struct IPv6SocketTests {
    private static func endpoint(_ text: String, _ port: UInt16 = 8285) throws -> Endpoint {
        Endpoint(address: .v6(try #require(IPv6Address(text))), port: port)
    }

    private static func open(
        _ endpoint: Endpoint, beside first: UnderlaySocket? = nil
    ) throws -> UnderlaySocket {
        try UnderlaySocket.open(
            endpoint, beside: first, bufferBytes: 65_536, segmentation: true, coalescing: true)
    }

    /// Sends so many bytes.
    ///
    /// - Returns: 0, or the kernel's error number.
    private static func send(_ count: Int, on descriptor: Int32, to endpoint: Endpoint) -> Int32 {
        let bytes = [UInt8](repeating: 0x60, count: count)
        let sent = endpoint.withSocketName { sendto(descriptor, bytes, count, 0, $0, $1) }
        return sent == count ? 0 : errno
    }

    private static func received(_ descriptor: Int32) -> Int {
        var (byte, count) = (UInt8(0), 0)
        while recv(descriptor, &byte, 1, Int32(MSG_DONTWAIT)) >= 0 { count += 1 }
        return count
    }

    @Test(arguments: 2...5) func datagramsGoWhereTheirSourceSays(workers: Int) async throws {
        let namespace = try await NetworkNamespace.make()
        try await namespace.run {
            try execute("for n in 1 2 3 9; do ip -6 address add fd00::$n/128 dev lo nodad; done")
            let endpoint = try Self.endpoint("fd00::9")
            var sockets: [UnderlaySocket] = []
            defer { for socket in sockets { socket.close() } }
            for _ in 0..<workers { sockets.append(try Self.open(endpoint, beside: sockets.first)) }
            try #require(UnderlaySocket.steer(sockets, of: .ipv6))
            for host in 1...3 {
                for port in 26_000..<26_010 {
                    let sender = try Self.open(Self.endpoint("fd00::\(host)", UInt16(port)))
                    defer { sender.close() }
                    #expect(Self.send(1, on: sender.descriptor, to: endpoint) == 0)
                    let places = sockets.indices.filter { Self.received(sockets[$0].descriptor) > 0 }
                    #expect(places == [(host + port) % workers])
                }
            }
        }
    }

    @Test func noFragmentsAreMade() async throws {
        let namespace = try await NetworkNamespace.make()
        try await namespace.run {
            try execute(
                """
                ip link add wire mtu 1500 type dummy && ip link set wire up && \
                ip -6 address add fd01::1/64 dev wire nodad && \
                ip -6 neigh add fd01::2 lladdr 02:00:00:00:00:02 dev wire nud permanent
                """)
            let socket = try Self.open(Self.endpoint("fd01::1"))
            defer { socket.close() }
            let peer = try Self.endpoint("fd01::2")
            #expect(Self.send(1452, on: socket.descriptor, to: peer) == 0)
            #expect(Self.send(1453, on: socket.descriptor, to: peer) == EMSGSIZE)
        }
    }

    @Test func theSendingSocketTakesNothingInAndNoneSendsWithoutChecksum() async throws {
        let namespace = try await NetworkNamespace.make()
        try await namespace.run {
            try execute(
                "ip -6 address add fd00::1/128 dev lo nodad && ip -6 address add fd00::2/128 dev lo nodad")
            let endpoint = try Self.endpoint("fd00::1")
            let receiver = try Self.open(endpoint)
            defer { receiver.close() }
            let sender = try #require(
                UnderlaySocket.openSender(sharingPortOf: receiver, at: endpoint, bufferBytes: 65_536))
            defer { close(sender) }
            let other = try Self.open(Self.endpoint("fd00::2"))
            defer { other.close() }
            for _ in 0..<10 {
                #expect(Self.send(1, on: other.descriptor, to: endpoint) == 0)
                #expect(Self.send(1, on: sender, to: try Self.endpoint("fd00::2")) == 0)
            }
            #expect(Self.received(receiver.descriptor) == 10 && Self.received(sender) == 0)
            #expect(Self.received(other.descriptor) == 10)
            #expect(
                UnderlaySocket.openSenderWithoutChecksum(
                    sharingPortOf: receiver, beside: sender, at: endpoint) == nil)
        }
    }
}
