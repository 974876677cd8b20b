import Addresses
import CLinux
import Glibc
import NetworkNamespaces
import Synchronization
import Testing

@testable import Devices

/// Who may have the port beside this process: nobody, at no time.
@Suite struct PortTests {
    private static func endpoint(_ host: Int) -> Endpoint {
        Endpoint(
            address: IPv4Address("127.0.1.\(host)") ?? .any, port: UInt16.random(in: 30_000...45_000))
    }

    private static func open(_ endpoint: Endpoint, beside first: UnderlaySocket? = nil) throws
        -> UnderlaySocket
    {
        try UnderlaySocket.open(
            endpoint, beside: first, bufferBytes: 65_536, segmentation: false, coalescing: false)
    }

    /// A socket of somebody who sets `option` and binds an endpoint; nil where it is refused.
    private static func join(_ endpoint: Endpoint, _ option: Int32, anyAddress: Bool = false) -> Int32? {
        let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var on: Int32 = 1
        setsockopt(descriptor, SOL_SOCKET, option, &on, socklen_t(MemoryLayout<Int32>.size))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = endpoint.port.bigEndian
        address.sin_addr.s_addr = anyAddress ? 0 : endpoint.address.v4!.networkBytes
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        if result == 0 { return descriptor }
        close(descriptor)
        return nil
    }

    /// Binds without a pause, from the moment that the port is bound to that at which all sockets are open.
    private final class Intruder: Sendable {
        enum State: Int, AtomicRepresentable { case rests, tries, ends }
        let state = Atomic<State>(.rests)
        let joined = Atomic<Int>(0)
        let tries = Atomic<Int>(0)
        let rests = Atomic<Int>(0)
        let endpoint: Endpoint
        let option: Int32

        init(_ endpoint: Endpoint, _ option: Int32) {
            self.endpoint = endpoint
            self.option = option
        }

        func work() {
            while true {
                switch state.load(ordering: .acquiring) {
                case .ends: return
                case .rests:
                    rests.add(1, ordering: .releasing)
                    usleep(100)
                case .tries:
                    tries.add(1, ordering: .relaxed)
                    if let descriptor = PortTests.join(endpoint, option) {
                        joined.add(1, ordering: .relaxed)
                        close(descriptor)
                    }
                }
            }
        }
    }

    @Test func whoAsksToReuseTheAddressNeverGetsInWhileTheSocketsAreOpened() throws {
        let endpoint = Self.endpoint(1)
        let intruder = Intruder(endpoint, SO_REUSEADDR)
        var thread = pthread_t()
        let context = Unmanaged.passRetained(intruder)
        let made = pthread_create(
            &thread, nil,
            { argument in
                Unmanaged<Intruder>.fromOpaque(argument!).takeRetainedValue().work()
                return nil
            }, context.toOpaque())
        try #require(made == 0)
        defer { intruder.state.store(.ends, ordering: .releasing) }
        for _ in 0..<40 {
            // The intruder may still have it from its last try before this.
            var receiver: UnderlaySocket?
            for _ in 0..<1000 where receiver == nil {
                receiver = try? Self.open(endpoint)
                if receiver == nil { usleep(100) }
            }
            let first = try #require(receiver)
            let before = intruder.tries.load(ordering: .relaxed)
            intruder.state.store(.tries, ordering: .releasing)
            while intruder.tries.load(ordering: .relaxed) == before { usleep(10) }
            let sender = UnderlaySocket.openSender(sharingPortOf: first, at: endpoint, bufferBytes: 65_536)
            let rests = intruder.rests.load(ordering: .relaxed)
            intruder.state.store(.rests, ordering: .releasing)
            // Its last try is over before the port is free.
            while intruder.rests.load(ordering: .acquiring) == rests { usleep(10) }
            close(try #require(sender))
            first.close()
        }
        intruder.state.store(.ends, ordering: .releasing)
        pthread_join(thread, nil)
        #expect(intruder.joined.load(ordering: .relaxed) == 0)
    }

    @Test(arguments: [1, 2, 4], [SO_REUSEADDR, SO_REUSEPORT])
    func afterwardsNobodyGetsInWhateverHeAsksFor(workers: Int, option: Int32) throws {
        let endpoint = Self.endpoint(workers + 10 * Int(option))
        var sockets: [UnderlaySocket] = []
        for _ in 0..<workers { sockets.append(try Self.open(endpoint, beside: sockets.first)) }
        defer { for socket in sockets { socket.close() } }
        let sender = try #require(
            UnderlaySocket.openSender(sharingPortOf: sockets[0], at: endpoint, bufferBytes: 65_536))
        defer { close(sender) }
        for anyAddress in [false, true] {
            let joined = Self.join(endpoint, option, anyAddress: anyAddress)
            #expect(joined == nil)
            if let joined { close(joined) }
        }
        #expect(UnderlaySocket.intruders(on: endpoint, beside: sockets.map(\.descriptor) + [sender]) == [])
    }

    @Test(arguments: [SO_REUSEADDR, SO_REUSEPORT], [false, true])
    func whoHasThePortBeforeIsNotJoined(option: Int32, anyAddress: Bool) throws {
        let endpoint = Self.endpoint(7)
        let other = try #require(Self.join(endpoint, option, anyAddress: anyAddress))
        defer { close(other) }
        let error = #expect(throws: UnderlaySocketError.self) { _ = try Self.open(endpoint) }
        #expect(error?.errorNumber == EADDRINUSE)
    }

    @Test func whoGotInAllTheSameIsNamed() throws {
        let endpoint = Self.endpoint(8)
        let first = try Self.open(endpoint)
        defer { first.close() }
        // As a process of the same user could between the first socket and the last.
        let other = try Self.open(endpoint, beside: first)
        defer { other.close() }
        let elsewhere = try Self.open(Endpoint(address: endpoint.address, port: endpoint.port + 1))
        defer { elsewhere.close() }
        let found = UnderlaySocket.intruders(on: endpoint, beside: [first.descriptor])
        #expect(found.count == 1)
        #expect(found.first?.user == geteuid())
        #expect(found.first?.description.hasSuffix("(process \(getpid()))") == true)
        let error = #expect(throws: UnderlaySocketError.self) {
            try UnderlaySocket.refuseIntruders(on: endpoint, beside: [first.descriptor])
        }
        #expect(error?.description.contains("(process \(getpid()))") == true)
        #expect(UnderlaySocket.intruders(on: endpoint, beside: [first.descriptor, other.descriptor]) == [])
    }

    /// What a service manager still has of it gets nothing: nothing is to be said of it.
    @Test func aReceiverThatWasGivenUpIsNoIntruder() throws {
        let endpoint = Self.endpoint(10)
        let first = try Self.open(endpoint)
        defer { first.close() }
        let other = try Self.open(endpoint, beside: first)
        let copy = dup(other.descriptor)
        defer { close(copy) }
        other.retire(.ipv4)
        other.close()
        #expect(UnderlaySocket.intruders(on: endpoint, beside: [first.descriptor]) == [])
    }

    @Test func whatASocketHadNoRoomForIsKnown() throws {
        let endpoint = Self.endpoint(9)
        let receiver = try Self.open(endpoint)
        defer { receiver.close() }
        #expect(receiver.droppedDatagrams() == 0)
        let sender = try Self.open(Endpoint(address: endpoint.address, port: endpoint.port + 1))
        defer { sender.close() }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = endpoint.port.bigEndian
        address.sin_addr.s_addr = endpoint.address.v4!.networkBytes
        let bytes = [UInt8](repeating: 1, count: 8000)
        withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                for _ in 0..<100 { sendto(sender.descriptor, bytes, bytes.count, 0, $0, 16) }
            }
        }
        let dropped = try #require(receiver.droppedDatagrams())
        #expect((50..<100).contains(dropped))
    }

    @Test(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
    func whatADeviceHadNoRoomForIsKnown() async throws {
        let namespace = try await NetworkNamespace.make()
        let dropped = try await namespace.run {
            let device = try TunnelDevice.open(
                name: "full0", queueCount: 1, offloads: .checksum, patienceMilliseconds: 0)
            defer { device.close() }
            let before = device.droppedPackets()
            try execute(
                "ip link set full0 txqueuelen 5 && ip address add 10.9.0.1/16 dev full0 && ip link set full0 up"
            )
            try execute("ping -q -f -c 50 -W 1 10.9.0.2 || true")
            return (before, device.droppedPackets())
        }
        #expect(dropped.0 == 0)
        #expect((dropped.1 ?? 0) >= 40)
    }
}
