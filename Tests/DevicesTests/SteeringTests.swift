import Addresses
import CLinux
import Glibc
import NetworkNamespaces
import Testing

@testable import Devices

func socketAddress(_ endpoint: Endpoint) -> sockaddr_in {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = endpoint.port.bigEndian
    address.sin_addr.s_addr = endpoint.address.v4!.networkBytes
    return address
}

/// Sends a datagram from one address and port to another.
private func send(_ bytes: [UInt8], from source: Endpoint, to destination: Endpoint) throws {
    let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
    defer { close(descriptor) }
    var on: Int32 = 1
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, socklen_t(MemoryLayout<Int32>.size))
    func with(_ endpoint: Endpoint, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int) -> Int {
        var address = socketAddress(endpoint)
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                body($0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
    }
    try #require(with(source) { Int(bind(descriptor, $0, $1)) } == 0, "bind \(source)")
    let sent = with(destination) { sendto(descriptor, bytes, bytes.count, 0, $0, $1) }
    try #require(sent == bytes.count, "send to \(destination)")
}

@Suite struct DatagramSteeringTests {
    private static func group(_ endpoint: Endpoint, of count: Int) throws -> [UnderlaySocket] {
        var sockets: [UnderlaySocket] = []
        for _ in 0..<count {
            sockets.append(
                try UnderlaySocket.open(
                    endpoint, beside: sockets.first, bufferBytes: 65_536, segmentation: false,
                    coalescing: true))
        }
        return sockets
    }

    /// The places of the sockets that have something to read, which is read.
    private static func readable(_ sockets: [UnderlaySocket]) -> [Int] {
        sockets.indices.filter {
            var byte: UInt8 = 0
            var count = 0
            while recv(sockets[$0].descriptor, &byte, 1, Int32(MSG_DONTWAIT)) >= 0 { count += 1 }
            return count > 0
        }
    }

    @Test(arguments: 2...5)
    func datagramsGoWhereTheirSourceSays(workers: Int) throws {
        let loopback = IPv4Address("127.0.0.1")!
        let endpoint = Endpoint(address: loopback, port: UInt16.random(in: 20_000...25_000))
        let sockets = try Self.group(endpoint, of: workers)
        defer { for socket in sockets { socket.close() } }
        try #require(UnderlaySocket.steer(sockets, of: .ipv4))

        for host in 1...3 {
            for port in 26_000..<26_010 {
                let source = Endpoint(address: IPv4Address("127.0.0.\(host)")!, port: UInt16(port))
                try send([1], from: source, to: endpoint)
                let expected = (Int(source.address.v4!.bits) + port) % workers
                #expect(Self.readable(sockets) == [expected])
            }
        }
    }

    /// Receivers that are opened later come to those that are there, and not to the senders, which are connected: nothing comes
    /// to them before it is steered there, and nothing any more once it is not.
    @Test func receiversThatComeLaterAreOfTheSameGroup() throws {
        let endpoint = Endpoint(
            address: IPv4Address("127.0.0.1")!, port: UInt16.random(in: 20_000...25_000))
        var receivers = try Self.group(endpoint, of: 1)
        var senders = [
            try #require(
                UnderlaySocket.openSender(sharingPortOf: receivers[0], at: endpoint, bufferBytes: 65_536))
        ]
        senders.append(
            try #require(
                UnderlaySocket.openSenderWithoutChecksum(
                    sharingPortOf: receivers[0], passing: senders, at: endpoint)))
        try #require(UnderlaySocket.steer(receivers, of: .ipv4))
        defer {
            for receiver in receivers { receiver.close() }
            for sender in senders { close(sender) }
        }
        func sendEverywhere(_ expected: (Int) -> Int) throws {
            for port in 26_000..<26_010 {
                try send([1], from: Endpoint(address: endpoint.address, port: UInt16(port)), to: endpoint)
                #expect(Self.readable(receivers) == [expected(Int(endpoint.address.v4!.bits) + port)])
            }
        }
        for _ in 0..<2 {
            for _ in 1..<4 {
                receivers.append(
                    try UnderlaySocket.open(
                        endpoint, beside: receivers[0], passing: senders, bufferBytes: 65_536,
                        segmentation: false, coalescing: true))
            }
            senders.append(
                try #require(
                    UnderlaySocket.openSender(
                        sharingPortOf: receivers[0], passing: senders, at: endpoint, bufferBytes: 65_536)))
            try sendEverywhere { _ in 0 }
            try #require(UnderlaySocket.steer(receivers, of: .ipv4))
            try sendEverywhere { $0 % 4 }
            try #require(UnderlaySocket.steer(Array(receivers[..<1]), of: .ipv4))
            try sendEverywhere { _ in 0 }
            for receiver in receivers[1...].reversed() { receiver.close() }
            receivers.removeSubrange(1...)
            try sendEverywhere { _ in 0 }
        }
        // Whoever else comes is refused.
        #expect(throws: UnderlaySocketError.self) { try Self.group(endpoint, of: 1) }
    }

    /// As many workers as the peer has: each takes the datagrams of one of the peer's.
    @Test(arguments: [2, 3, 4, 8])
    func thePortsOfOnePeersWorkersReachAllOfAnothers(workers: Int) throws {
        let sending = Endpoint(address: IPv4Address("127.0.0.2")!, port: UInt16.random(in: 27_000...30_000))
        let receiving = Endpoint(address: IPv4Address("127.0.0.1")!, port: sending.port)
        let receivers = try Self.group(receiving, of: workers)
        defer { for socket in receivers { socket.close() } }
        try #require(UnderlaySocket.steer(receivers, of: .ipv4))
        // Somebody has the port of the second worker: it takes another, and still meets a receiver of its own.
        let squatter = try UnderlaySocket.open(
            Endpoint(address: sending.address, port: sending.port + 1),
            bufferBytes: 65_536, segmentation: false, coalescing: false)
        defer { squatter.close() }

        var senders = [try Self.group(sending, of: 1)[0].descriptor]
        for place in 1..<workers {
            senders.append(
                try UnderlaySocket.openSender(beside: sending, place: place, bufferBytes: 65_536))
        }
        defer { for sender in senders { close(sender) } }
        var met: Set<Int> = []
        for sender in senders {
            var address = socketAddress(receiving)
            let sent = withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    sendto(sender, [1], 1, 0, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
            #expect(sent == 1)
            met.formUnion(Self.readable(receivers))
        }
        #expect(met.count == workers)
    }

    @Test func aPortNearTheEndOfTheRangeHasSendersToo() throws {
        let last = Endpoint(address: IPv4Address("127.0.0.3")!, port: 65_535)
        let sender = try UnderlaySocket.openSender(beside: last, place: 1, bufferBytes: 65_536)
        close(sender)
    }
}

/// A TUN device of four queues, with 10.9.0.0/16 and fd09::/16 behind it.
private struct Queues {
    static let count = 4
    let device: TunnelDevice

    init() throws {
        device = try TunnelDevice.open(
            name: "steered0", queueCount: Queues.count, offloads: .checksum, patienceMilliseconds: 0)
        try execute(
            """
            sysctl -q -w net.ipv6.conf.steered0.accept_dad=0 net.ipv6.conf.steered0.router_solicitations=0 &&
            ip address add 10.8.0.1/32 dev steered0 && ip address add fd08::1/128 dev steered0 &&
            ip link set steered0 txqueuelen 5000 up &&
            ip route add 10.9.0.0/16 dev steered0 && ip -6 route add fd09::/16 dev steered0
            """)
        for queue in device.queues {
            #expect(fcntl(queue.descriptor, F_SETFL, O_NONBLOCK) == 0)
        }
    }

    /// Everything that waits, without what the kernel says of its own (ICMPv6), by queue.
    func read() -> [[[UInt8]]] { Self.read(device) }

    static func read(_ device: TunnelDevice) -> [[[UInt8]]] {
        device.queues.map { queue in
            var packets: [[UInt8]] = []
            var buffer = [UInt8](repeating: 0, count: 2048)
            while true {
                let count = Glibc.read(queue.descriptor, &buffer, buffer.count)
                guard count > 10 else { return packets }
                let packet = Array(buffer[10..<count])
                if packet[packet[0] >> 4 == 6 ? 6 : 9] == 17 { packets.append(packet) }
            }
        }
    }
}

@Suite(.enabled(if: namespacesAreExpected, "needs root")) struct PacketSteeringTests {
    /// The flow's port and where it came out, of packets to one port each.
    private static func queuesOfPorts(_ read: [[[UInt8]]]) -> [Int: Set<Int>] {
        var queues: [Int: Set<Int>] = [:]
        for (queue, packets) in read.enumerated() {
            for packet in packets {
                let ports = packet[0] >> 4 == 6 ? 40 : 20
                queues[Int(packet[ports + 2]) << 8 | Int(packet[ports + 3]), default: []].insert(queue)
            }
        }
        return queues
    }

    @Test(arguments: ["10.9.0.1", "fd09::1"])
    func aFlowHasOneQueueAndAllQueuesHaveFlows(destination: String) async throws {
        let namespace = try await NetworkNamespace.make()
        try await namespace.run {
            let queues = try Queues()
            defer { queues.device.close() }
            #expect(queues.device.steerFlows())
            let family = destination.contains(":") ? AF_INET6 : AF_INET
            let descriptor = socket(family, Int32(SOCK_DGRAM.rawValue), 0)
            defer { close(descriptor) }
            for _ in 0..<3 {
                for port in 5000..<5032 {
                    #expect(Self.send(descriptor, to: destination, port: port) == 4)
                }
            }
            let flows = Self.queuesOfPorts(queues.read())
            #expect(flows.count == 32)
            #expect(flows.values.allSatisfy { $0.count == 1 })
            #expect(Set(flows.values.flatMap { $0 }).count == Queues.count)
        }
    }

    /// Left to itself the kernel would follow the write: an answer through another queue would move the flow there.
    @Test func anAnswerThroughAnotherQueueMovesNoFlow() async throws {
        let namespace = try await NetworkNamespace.make()
        try await namespace.run {
            let queues = try Queues()
            defer { queues.device.close() }
            #expect(queues.device.steerFlows())
            let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
            defer { close(descriptor) }
            #expect(Self.send(descriptor, to: "10.9.0.1", port: 5000) == 4)
            let before = queues.read()
            let queue = try #require(before.firstIndex { !$0.isEmpty })
            for other in 0..<Queues.count where other != queue {
                var answer = before[queue][0]
                for (left, right) in [(12, 16), (13, 17), (14, 18), (15, 19), (20, 22), (21, 23)] {
                    answer.swapAt(left, right)
                }
                // The UDP checksum of the way there was left to the device; none is needed on the way back.
                (answer[26], answer[27]) = (0, 0)
                let frame = [UInt8](repeating: 0, count: 10) + answer
                #expect(write(queues.device.queues[other].descriptor, frame, frame.count) == frame.count)
                #expect(Self.send(descriptor, to: "10.9.0.1", port: 5000) == 4)
                #expect(queues.read().firstIndex { !$0.isEmpty } == queue)
            }
        }
    }

    /// A service manager keeps copies; queues that come later get the flows all the same.
    @Test func aQueueThatIsClosedIsOffTheDeviceWhoeverHasACopy() async throws {
        let namespace = try await NetworkNamespace.make()
        try await namespace.run {
            let queues = try Queues()
            let copies = queues.device.queues.dropFirst().map { fcntl($0.descriptor, F_DUPFD_CLOEXEC, 0) }
            defer { for copy in copies { close(copy) } }
            let device = try queues.device.closingQueues(behind: 1).adding(queueCount: Queues.count - 1)
            defer { device.close() }
            for queue in device.queues { #expect(fcntl(queue.descriptor, F_SETFL, O_NONBLOCK) == 0) }
            #expect(device.steerFlows())
            let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
            defer { close(descriptor) }
            for port in 5000..<5032 { #expect(Self.send(descriptor, to: "10.9.0.1", port: port) == 4) }
            #expect(Self.queuesOfPorts(Queues.read(device)).count == 32)
        }
    }

    /// Sends four bytes.
    private static func send(_ descriptor: Int32, to destination: String, port: Int) -> Int {
        var hints = addrinfo()
        hints.ai_flags = AI_NUMERICHOST
        hints.ai_socktype = Int32(SOCK_DGRAM.rawValue)
        var found: UnsafeMutablePointer<addrinfo>?
        guard getaddrinfo(destination, "\(port)", &hints, &found) == 0, let found else { return -1 }
        defer { freeaddrinfo(found) }
        return sendto(descriptor, [1, 2, 3, 4], 4, 0, found.pointee.ai_addr, found.pointee.ai_addrlen)
    }
}

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

    /// Gives the loopback addresses, and waits until the kernel takes packets for them in, which it does a moment later.
    private static func addAddresses(_ addresses: String) throws {
        try execute(
            """
            for address in \(addresses); do
                ip -6 address add $address/128 dev lo nodad
                until ip -6 route show table local | grep -q "^local $address "; do sleep 0.01; done
            done
            """)
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
            try Self.addAddresses("fd00::1 fd00::2 fd00::3 fd00::9")
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

    /// As over IPv4: what is opened later is of the receivers' group, and not of the senders'.
    @Test func receiversThatComeLaterAreOfTheSameGroup() async throws {
        let namespace = try await NetworkNamespace.make()
        try await namespace.run {
            try Self.addAddresses("fd00::1 fd00::9")
            let endpoint = try Self.endpoint("fd00::9")
            var receivers = [try Self.open(endpoint)]
            var senders: [Int32] = []
            defer {
                for receiver in receivers { receiver.close() }
                for sender in senders { close(sender) }
            }
            func openSender() throws {
                senders.append(
                    try #require(
                        UnderlaySocket.openSender(
                            sharingPortOf: receivers[0], passing: senders, at: endpoint, bufferBytes: 65_536))
                )
            }
            func sendEverywhere(_ expected: (Int) -> Int) throws {
                for port in 26_000..<26_010 {
                    let other = try Self.open(Self.endpoint("fd00::1", UInt16(port)))
                    defer { other.close() }
                    #expect(Self.send(1, on: other.descriptor, to: endpoint) == 0)
                    let places = receivers.indices.filter { Self.received(receivers[$0].descriptor) > 0 }
                    #expect(places == [expected(1 + port)])
                }
            }
            try openSender()
            for _ in 1..<4 {
                receivers.append(
                    try UnderlaySocket.open(
                        endpoint, beside: receivers[0], passing: senders, bufferBytes: 65_536,
                        segmentation: false, coalescing: true))
            }
            try openSender()
            try #require(UnderlaySocket.steer(Array(receivers[..<1]), of: .ipv6))
            try sendEverywhere { _ in 0 }
            try #require(UnderlaySocket.steer(receivers, of: .ipv6))
            try sendEverywhere { $0 % 4 }
            for receiver in receivers[1...].reversed() { receiver.close() }
            receivers.removeSubrange(1...)
            try sendEverywhere { _ in 0 }
            // Whoever else comes is refused, and who is in by another way is seen.
            #expect(throws: UnderlaySocketError.self) { try Self.open(endpoint) }
            let own = receivers.map(\.descriptor) + senders
            #expect(UnderlaySocket.intruders(on: endpoint, beside: own).isEmpty)
            #expect(UnderlaySocket.intruders(on: endpoint, beside: senders).count == 1)
            // What another process gives is known by its address and port.
            #expect(UnderlaySocket.isBound(receivers[0].descriptor, to: endpoint))
            #expect(UnderlaySocket.isBound(senders[0], to: try Self.endpoint("fd00::9", 0)))
            #expect(!UnderlaySocket.isBound(receivers[0].descriptor, to: try Self.endpoint("fd00::1")))
            #expect(!UnderlaySocket.isBound(receivers[0].descriptor, to: try Self.endpoint("fd00::9", 1)))
        }
    }

    @Test func noFragmentsAreMade() async throws {
        let namespace = try await NetworkNamespace.make()
        try await namespace.run {
            try execute(
                """
                ip link add wire mtu 1500 type veth peer name other && ip link set wire up && \
                ip link set other up && \
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

    @Test func theSendingSocketTakesNothingIn() async throws {
        let namespace = try await NetworkNamespace.make()
        try await namespace.run {
            try Self.addAddresses("fd00::1 fd00::2")
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
        }
    }

    /// IPv6 has datagrams without a checksum between those that agreed to it (RFC 6935): a socket of ours, also one that was
    /// taken over, takes them; any other does not.
    @Test func datagramsWithoutAChecksumAreTaken() async throws {
        let namespace = try await NetworkNamespace.make()
        try await namespace.run {
            try Self.addAddresses("fd00::1 fd00::2 fd00::3")
            let endpoint = try Self.endpoint("fd00::1")
            let receiver = try Self.open(endpoint)
            defer { receiver.close() }
            let sender = try #require(
                UnderlaySocket.openSenderWithoutChecksum(sharingPortOf: receiver, passing: [], at: endpoint))
            defer { close(sender) }
            let ours = try Self.open(Self.endpoint("fd00::2"))
            defer { ours.close() }
            let plain = socket(AF_INET6, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
            let bound = try Self.endpoint("fd00::3").withSocketName { bind(plain, $0, $1) }
            try #require(bound == 0)
            for address in ["fd00::2", "fd00::3"] {
                #expect(Self.send(1, on: sender, to: try Self.endpoint(address)) == 0)
            }
            #expect(Self.received(ours.descriptor) == 1 && Self.received(plain) == 0)
            // As a daemon of before leaves it to one that takes over.
            let adopted = try UnderlaySocket(
                adopting: plain, at: Self.endpoint("fd00::3"), bufferBytes: 65_536, segmentation: true,
                coalescing: true)
            defer { adopted.close() }
            #expect(Self.send(1, on: sender, to: try Self.endpoint("fd00::3")) == 0)
            #expect(Self.received(adopted.descriptor) == 1)
        }
    }
}
