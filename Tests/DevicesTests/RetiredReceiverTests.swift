import Addresses
import CLinux
import Glibc
import Synchronization
import Testing

@testable import Devices

/// A receiver is closed while datagrams come: none is lost with it.
@Suite struct RetiredReceiverTests {
    /// Sends datagrams of one byte to a port without a pause, on a thread of its own, until it is told to stop.
    private final class Flood: Sendable {
        private let descriptor: Int32
        private let isOver = Atomic<Bool>(false)
        private let count = Atomic<Int>(0)
        private nonisolated(unsafe) var thread = pthread_t()

        init(to port: UInt16) {
            descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
            var address = socketAddress(Endpoint(address: IPv4Address("127.0.0.1")!, port: port))
            _ = withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
            pthread_create(
                &thread, nil,
                { argument in
                    Unmanaged<Flood>.fromOpaque(argument!).takeRetainedValue().run()
                    return nil
                }, Unmanaged.passRetained(self).toOpaque())
        }

        private func run() {
            var byte: UInt8 = 1
            while !isOver.load(ordering: .relaxed) {
                if send(descriptor, &byte, 1, 0) == 1 { count.add(1, ordering: .relaxed) }
            }
        }

        /// Lets the thread end, also where the test does before its time.
        func stop() { isOver.store(true, ordering: .relaxed) }

        /// - Returns: how many were sent.
        func end() -> Int {
            stop()
            pthread_join(thread, nil)
            close(descriptor)
            return count.load(ordering: .relaxed)
        }
    }

    private static func drain(_ socket: UnderlaySocket) -> Int {
        var byte: UInt8 = 0
        var count = 0
        while recv(socket.descriptor, &byte, 1, Int32(MSG_DONTWAIT)) >= 0 { count += 1 }
        return count
    }

    @Test func whatComesWhileAReceiverIsClosedIsNotLost() throws {
        let endpoint = Endpoint(address: IPv4Address("127.0.0.1")!, port: 18_391)
        let first = try UnderlaySocket.open(
            endpoint, bufferBytes: 16 << 20, segmentation: false, coalescing: false)
        defer { close(first.descriptor) }
        let flood = Flood(to: endpoint.port)
        defer { flood.stop() }
        var received = 0
        for _ in 0..<3_000 {
            let second = try UnderlaySocket.open(
                endpoint, beside: first, bufferBytes: 1 << 20, segmentation: false, coalescing: false)
            #expect(UnderlaySocket.steer([first], of: .ipv4))
            second.retire(.ipv4)
            // Whoever has found it is done.
            usleep(20)
            received += Self.drain(second) + Self.drain(first)
            close(second.descriptor)
        }
        let sent = flood.end()
        received += Self.drain(first)
        let dropped = Int(first.droppedDatagrams() ?? 0)
        #expect(received + dropped == sent, "\(sent) sent, \(received) received, \(dropped) dropped")
    }
}
