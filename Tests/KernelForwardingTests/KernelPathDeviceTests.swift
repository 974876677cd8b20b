import Addresses
import CLinux
import CNetworkNamespaces
import Counters
import Devices
import Forwarding
import Glibc
import KernelPrograms
import NetworkNamespaces
import Testing

@testable import KernelForwarding

/// A node's device and underlay in a namespace, with the programs in their way: what leaves and what arrives, byte by byte.
@Suite(.enabled(if: namespacesAreExpected)) struct KernelPathDeviceTests {
    /// `over` is the TUN device of 8.0.1.0/24, `under` the underlay's interface; what leaves by it is seen at `wire`.
    private final class Node: Sendable {
        let forwarder: KernelForwarder
        let tunnel: TunnelDevice
        let wire: Int32
        let links: [Int32]
        static let router = "02:00:00:00:00:02"

        init(queues: Int = 1) throws {
            try execute(
                """
                ip link add under address 02:00:00:00:00:01 type veth peer name wire
                sysctl -qw net.ipv6.conf.all.disable_ipv6=1
                ip addr add 10.0.0.1/24 dev under
                ip link set under up && ip link set wire up
                ip neigh add 10.0.0.2 lladdr \(Node.router) dev under
                """)
            tunnel = try TunnelDevice.open(
                name: "over", queueCount: queues, offloads: .all, patienceMilliseconds: 0)
            try execute(
                """
                ip addr add 8.0.1.7/32 dev over
                ip link set over up mtu 1400
                ip route add 8.0.0.0/16 dev over
                sysctl -qw net.ipv4.conf.over.rp_filter=0 net.ipv4.conf.all.rp_filter=0
                """)
            wire = open_frame_socket("wire")
            guard wire >= 0 else { throw CommandFailureOfTest(what: "open_frame_socket") }
            forwarder = try KernelForwarder(
                underlay: (IPv4Address(10, 0, 0, 1), 8285), packetLimitBytes: 256, mtu: 1400,
                workers: queues)
            forwarder.publish(
                ForwardingRoutes(localIPv4: ProgramNode.own, mtu: 1400, peers: [ProgramNode.peer]))
            forwarder.allow(ProgramNode.peer.endpoint, forMilliseconds: 60_000)
            let under = if_nametoindex("under")
            links = [
                attach_program(forwarder.programs.inbound.descriptor, under, 0),
                attach_program(forwarder.programs.outbound.descriptor, tunnel.index, 1),
            ]
            forwarder.attached(underlayIndex: under, tunnelIndex: tunnel.index)
        }

        deinit {
            for link in links { close(link) }
            tunnel.close()
            close(wire)
        }

        /// The next frame on the wire that is IPv4.
        func nextFrame() throws -> [UInt8] {
            var frame = [UInt8](repeating: 0, count: 4096)
            while true {
                let count = recv(wire, &frame, frame.count, 0)
                guard count > 0 else { throw CommandFailureOfTest(what: "no frame came") }
                if count > 14, frame[12] == 8, frame[13] == 0 { return Array(frame.prefix(count)) }
            }
        }

        /// The next packet that the ring would read, behind its 10 bytes of virtio header.
        func nextRead() throws -> [UInt8] {
            var packet = [UInt8](repeating: 0, count: 70_000)
            var ready = pollfd(fd: tunnel.queues[0].descriptor, events: Int16(POLLIN), revents: 0)
            guard poll(&ready, 1, 10_000) == 1 else { throw CommandFailureOfTest(what: "nothing to read") }
            let count = read(tunnel.queues[0].descriptor, &packet, packet.count)
            return Array(packet[10..<max(10, count)])
        }

        static func make(
            queues: Int = 1, _ body: @escaping @Sendable (Node) throws -> Void
        ) async throws {
            let namespace = try await NetworkNamespace.make()
            try await namespace.run { try body(Node(queues: queues)) }
        }
    }

    private struct CommandFailureOfTest: Error {
        let what: String
    }

    /// A UDP socket of a pod, bound to 8.0.1.7.
    private static func pod(port: UInt16) -> Int32 {
        let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = name(IPv4Address(8, 0, 1, 7), port)
        let bound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        var timeout = timeval(tv_sec: 10, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        #expect(bound == 0)
        return descriptor
    }

    private static func name(_ address: IPv4Address, _ port: UInt16) -> sockaddr_in {
        var name = sockaddr_in()
        name.sin_family = sa_family_t(AF_INET)
        name.sin_port = port.bigEndian
        name.sin_addr.s_addr = address.networkBytes
        return name
    }

    private static func send(
        _ bytes: [UInt8], from socket: Int32, to destination: IPv4Address = IPv4Address(8, 0, 2, 9)
    ) {
        var to = name(destination, 54321)
        let sent = withUnsafePointer(to: &to) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                sendto(socket, bytes, bytes.count, 0, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        #expect(sent == bytes.count)
    }

    @Test func aPacketLeavesInTheDatagramThatTheWireFormatSays() async throws {
        try await Node.make { node in
            let pod = Self.pod(port: 12345)
            defer { close(pod) }
            // A mark and a priority are for the packet's own way; the datagram has none of either to be routed by.
            var mark: UInt32 = 0x4000
            setsockopt(pod, SOL_SOCKET, SO_MARK, &mark, socklen_t(MemoryLayout<UInt32>.size))
            try execute("ip rule add fwmark 0x4000 oif under unreachable")
            Self.send([1, 2, 3, 4], from: pod)
            let frame = try node.nextFrame()
            #expect(frame[0..<6] == [2, 0, 0, 0, 0, 2])
            #expect(frame[6..<12] == [2, 0, 0, 0, 0, 1])
            var expected = OuterFrame(
                source: IPv4Address(10, 0, 0, 1), destination: IPv4Address(10, 0, 0, 2))
            expected.inner = InnerPacket(
                hops: 63, source: IPv4Address(8, 0, 1, 7), destination: IPv4Address(8, 0, 2, 9))
            // What the kernel's UDP writes: an identification, and a checksum that the card would finish.
            var seen = frame
            let inner = 14 + 28
            #expect(frame[inner + 4] == 0 || frame[inner + 6] & 0x40 != 0)
            seen.replaceSubrange((inner + 4)..<(inner + 6), with: [0, 0])
            seen.replaceSubrange((inner + 10)..<(inner + 12), with: [0, 0])
            seen.replaceSubrange((inner + 26)..<(inner + 28), with: [0, 0])
            var wanted = expected.bytes
            wanted.replaceSubrange((inner + 10)..<(inner + 12), with: [0, 0])
            wanted.replaceSubrange((inner + 26)..<(inner + 28), with: [0, 0])
            #expect(seen.dropFirst(14) == wanted.dropFirst(14))
            // Both headers' checksums are right.
            #expect(Self.sum(frame[14..<34]) == 0xFFFF)
            #expect(Self.sum(frame[inner..<(inner + 20)]) == 0xFFFF)
        }
    }

    private static func sum(_ bytes: ArraySlice<UInt8>) -> Int {
        var sum = 0
        for place in stride(from: bytes.startIndex, to: bytes.endIndex, by: 2) {
            sum += Int(bytes[place]) << 8 | Int(bytes[place + 1])
        }
        while sum > 0xFFFF { sum = (sum & 0xFFFF) + (sum >> 16) }
        return sum
    }

    @Test func whatIsLargeIsReadFromTheDevice() async throws {
        try await Node.make { node in
            let pod = Self.pod(port: 12345)
            defer { close(pod) }
            Self.send([UInt8](repeating: 7, count: 1000), from: pod)
            let read1028 = try node.nextRead()
            #expect(read1028.count == 1028)
            // And so is what follows it, in its order.
            Self.send([1], from: pod)
            let read29 = try node.nextRead()
            #expect(read29.count == 29)
        }
    }

    /// What is left to the packet threads is counted for the one whose queue the device puts it into.
    @Test func eachIsCountedForItsQueue() async throws {
        try await Node.make(queues: 3) { node in
            #expect(node.tunnel.steerFlows())
            for port in 0..<40 as Range<UInt16> {
                let pod = Self.pod(port: 12345 + port)
                defer { close(pod) }
                Self.send([UInt8](repeating: 7, count: 1000), from: pod)
            }
            var packet = [UInt8](repeating: 0, count: 70_000)
            for (index, queue) in node.tunnel.queues.enumerated() {
                let passage = try #require(node.forwarder.traffic.passage(.out, ofWorker: index))
                #expect(passage.entered > 0)
                for _ in 0..<passage.entered {
                    var ready = pollfd(fd: queue.descriptor, events: Int16(POLLIN), revents: 0)
                    #expect(poll(&ready, 1, 10_000) == 1 && read(queue.descriptor, &packet, packet.count) > 0)
                }
                var rest = pollfd(fd: queue.descriptor, events: Int16(POLLIN), revents: 0)
                #expect(poll(&rest, 1, 0) == 0)
            }
        }
    }

    @Test func aSuperPacketIsReadWhole() async throws {
        try await Node.make { node in
            let pod = Self.pod(port: 12345)
            defer { close(pod) }
            var segment: Int32 = 20
            setsockopt(
                pod, Int32(IPPROTO_UDP), UDP_SEGMENT, &segment, socklen_t(MemoryLayout<Int32>.size))
            // Of small segments, and small as a whole.
            Self.send([UInt8](repeating: 7, count: 100), from: pod)
            let read128 = try node.nextRead()
            #expect(read128.count == 128)
        }
    }

    /// The kernel gives a packet with an unfinished checksum outer headers once: what a VXLAN sends of sockets is small, and
    /// sparse, and the ring's.
    @Test func whatAnotherTunnelHasEncapsulatedIsReadFromTheDevice() async throws {
        try await Node.make { node in
            try execute(
                """
                ip link add nest type vxlan id 7 local 8.0.1.7 remote 8.0.2.9 dev over dstport 4789
                ip addr add 8.1.0.1/24 dev nest
                ip link set nest up
                ip neigh add 8.1.0.2 lladdr 02:00:00:00:00:09 dev nest
                """)
            let pod = Self.pod(port: 12345)
            defer { close(pod) }
            Self.send([1, 2, 3, 4], from: pod, to: IPv4Address(8, 1, 0, 2))
            let packet = try node.nextRead()
            // IPv4, UDP to VXLAN's port, VXLAN, Ethernet, IPv4, UDP; with all its hops.
            #expect(packet.count == 20 + 8 + 8 + 14 + 20 + 8 + 4)
            #expect(packet[9] == 17 && packet[22..<24] == [0x12, 0xB5])
            #expect(packet[8] == 64)
        }
    }

    @Test func aDatagramArrivesAtThePodWithOneHopLess() async throws {
        try await Node.make { node in
            let pod = Self.pod(port: 54321)
            defer { close(pod) }
            var on: Int32 = 1
            setsockopt(pod, Int32(IPPROTO_IP), IP_RECVTTL, &on, socklen_t(MemoryLayout<Int32>.size))
            var frame = OuterFrame()
            // The inner UDP checksum is left out, which a receiver admits.
            frame.inner.payload[4...5] = [0, 12]
            var bytes = frame.bytes
            bytes.replaceSubrange(0..<6, with: [2, 0, 0, 0, 0, 1])
            #expect(Glibc.send(node.wire, bytes, bytes.count, 0) == bytes.count)
            var received = [UInt8](repeating: 0, count: 64)
            let count = recv(pod, &received, received.count, 0)
            #expect(received.prefix(max(0, count)) == [1, 2, 3, 4])
            #expect(node.forwarder.counts(ofSlot: 3).packetsReceived == 1)
        }
    }
}
