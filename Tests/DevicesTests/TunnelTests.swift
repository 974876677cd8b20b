import Addresses
import CLinux
import Glibc
import NetworkNamespaces
import Processes
import Testing

@testable import Devices

@Suite struct TunnelTests {
    @Test(arguments: ["", "a-name-of-16-byte"])
    func aNameThatNoDeviceCanHaveIsRefused(_ name: String) {
        #expect(throws: TunnelError.self) {
            try TunnelDevice.open(name: name, queueCount: 1, offloads: .all, patienceMilliseconds: 0)
        }
    }

    /// Names of devices are each network namespace's own.
    @Test(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
    func whoHasADeviceIsNamedInItsOwnNetworkAlone() async throws {
        let device = try TunnelDevice.open(
            name: "who0", queueCount: 1, offloads: .checksum, patienceMilliseconds: 0)
        defer { device.close() }
        func holder(_ name: String) -> RunningProcess? { RunningProcess.holder(ofTunnel: name) }
        #expect(holder("who0") == .current)
        #expect(holder("who") == nil)
        let elsewhere = try await NetworkNamespace.make()
        #expect(try await elsewhere.run { RunningProcess.holder(ofTunnel: "who0") } == nil)
    }

    @Test func aTakenPortIsSaidWithWhatToDo() throws {
        let loopback = IPv4Address("127.0.0.1")!
        let port = UInt16.random(in: 40_000...50_000)
        func open() throws -> UnderlaySocket {
            try UnderlaySocket.open(
                Endpoint(address: loopback, port: port), bufferBytes: 65_536,
                segmentation: true,
                coalescing: true)
        }
        let first = try open()
        defer { first.close() }
        #expect(first.receiveBufferBytes >= 65_536)
        #expect(first.offloads.segmentation == (first.offloads.segmentLimit > 1))
        let error = #expect(throws: UnderlaySocketError.self) { _ = try open() }
        #expect(error?.description.contains("127.0.0.1:\(port)") == true)
        #expect(error?.description.contains("Backend.Port") == true)
    }

    @Test func aSecondSocketSendsFromThePortAndReceivesNothing() throws {
        let endpoint = Endpoint(
            address: IPv4Address("127.0.0.4")!, port: UInt16.random(in: 40_000...50_000))
        func open(_ endpoint: Endpoint) throws -> UnderlaySocket {
            try UnderlaySocket.open(
                endpoint, bufferBytes: 65_536, segmentation: false, coalescing: false)
        }
        let receiver = try open(endpoint)
        defer { receiver.close() }
        let sender = try #require(
            UnderlaySocket.openSender(sharingPortOf: receiver, at: endpoint, bufferBytes: 65_536))
        defer { close(sender) }
        let peerEndpoint = Endpoint(address: IPv4Address("127.0.0.5")!, port: endpoint.port)
        let peer = try open(peerEndpoint)
        defer { peer.close() }

        #expect(send("out", from: sender, to: peerEndpoint) == 3)
        let arrived = receive(on: peer.descriptor)
        #expect(arrived?.text == "out" && arrived?.source == endpoint)
        // Many, as two sockets on one port could share them.
        for _ in 0..<50 { #expect(send("in", from: peer.descriptor, to: endpoint) == 2) }
        #expect((0..<50).allSatisfy { _ in receive(on: receiver.descriptor)?.text == "in" })
        #expect(receive(on: sender) == nil)
        // Who comes later is still told that the port is taken.
        let error = #expect(throws: UnderlaySocketError.self) { _ = try open(endpoint) }
        #expect(error?.errorNumber == EADDRINUSE)
    }

    private func send(_ text: String, from descriptor: Int32, to endpoint: Endpoint) -> Int {
        var address = socketAddress(endpoint)
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                sendto(descriptor, text, text.utf8.count, 0, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
    }

    /// What waits on a socket, and where it came from; nil where nothing does.
    private func receive(on descriptor: Int32) -> (text: String, source: Endpoint)? {
        var bytes = [UInt8](repeating: 0, count: 16)
        var address = sockaddr_in()
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let count = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                recvfrom(descriptor, &bytes, bytes.count, Int32(MSG_DONTWAIT), $0, &size)
            }
        }
        guard count >= 0 else { return nil }
        return (
            String(decoding: bytes[..<count], as: UTF8.self),
            Endpoint(
                address: IPv4Address(bits: UInt32(bigEndian: address.sin_addr.s_addr)),
                port: UInt16(bigEndian: address.sin_port))
        )
    }

    @Test func anAddressThatIsNotOursIsSaid() {
        let error = #expect(throws: UnderlaySocketError.self) {
            _ = try UnderlaySocket.open(
                Endpoint(address: IPv4Address("192.0.2.1")!, port: 8285), bufferBytes: 65_536,
                segmentation: false, coalescing: false)
        }
        #expect(error?.description.contains("--iface") == true)
    }
}
