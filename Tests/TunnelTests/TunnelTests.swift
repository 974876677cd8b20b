import Addresses
import Testing

@testable import Tunnel

@Suite struct TunnelTests {
    @Test(arguments: ["", "a-name-of-16-byte"])
    func aNameThatNoDeviceCanHaveIsRefused(_ name: String) {
        #expect(throws: TunnelError.self) {
            try TunnelDevice.open(name: name, queueCount: 1, offloads: .all, patienceMilliseconds: 0)
        }
    }

    @Test func aTakenPortIsSaidWithWhatToDo() throws {
        let loopback = IPv4Address("127.0.0.1")!
        let port = UInt16.random(in: 40_000...50_000)
        func open() throws -> UnderlaySocket {
            try UnderlaySocket.open(
                Endpoint(address: loopback, port: port), sharesPort: false, bufferBytes: 65_536,
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

    @Test func anAddressThatIsNotOursIsSaid() {
        let error = #expect(throws: UnderlaySocketError.self) {
            _ = try UnderlaySocket.open(
                Endpoint(address: IPv4Address("192.0.2.1")!, port: 8285), sharesPort: false,
                bufferBytes: 65_536,
                segmentation: false, coalescing: false)
        }
        #expect(error?.description.contains("--iface") == true)
    }
}
