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
    /// `over` is the TUN device of node 1's pods, `under` the underlay's interface; what leaves by it is seen at `wire`.
    private final class Node: Sendable {
        let families: Families
        let forwarder: KernelForwarder
        let tunnel: TunnelDevice
        let wire: Int32
        let links: [Int32]
        static let router = "02:00:00:00:00:02"

        init(_ families: Families, queues: Int) throws {
            self.families = families
            let bits = families.underlay == .ipv4 ? "24" : "64 nodad"
            // Flow labels would be drawn by lot.
            try execute(
                """
                sysctl -qw net.ipv6.auto_flowlabels=0 net.ipv6.conf.default.addr_gen_mode=1
                ip link add under address 02:00:00:00:00:01 type veth peer name wire
                ip addr add \(families.node(1))/\(bits) dev under
                ip link set under up && ip link set wire up
                ip neigh add \(families.node(2)) lladdr \(Node.router) dev under
                """)
            tunnel = try TunnelDevice.open(
                name: "over", queueCount: queues, offloads: .all, patienceMilliseconds: 0)
            let (own, others) =
                families.inner == .ipv4 ? ("/32", "8.0.0.0/16") : ("/128 nodad", "fd00:0:86dd::/48")
            try execute(
                """
                ip addr add \(families.pod(1, 7))\(own) dev over
                ip link set over up mtu 1400
                ip route add \(others) dev over
                sysctl -qw net.ipv4.conf.over.rp_filter=0 net.ipv4.conf.all.rp_filter=0
                """)
            wire = open_frame_socket("wire")
            guard wire >= 0 else { throw CommandFailureOfTest(what: "open_frame_socket") }
            forwarder = try KernelForwarder(
                underlay: families.endpoint(1), packetLimitBytes: 256, mtu: 1400, workers: queues)
            let peer = ProgramNode.peer(at: families.endpoint(2))
            forwarder.publish(ProgramNode.routes([peer]))
            forwarder.allow(peer.endpoint, forMilliseconds: 60_000)
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

        /// Sends from a pod's socket, as a daemon would have it that refreshes the table each second: what a test does before
        /// may have taken longer than the table is good for.
        func send(
            _ bytes: [UInt8], from socket: Int32, to destination: IPAddress = Families.ipv4.pod(2, 9)
        ) {
            forwarder.refresh()
            let sent = Endpoint(address: destination, port: 54321).withSocketName {
                sendto(socket, bytes, bytes.count, 0, $0, $1)
            }
            #expect(sent == bytes.count)
        }

        /// The next frame on the wire that holds a UDP datagram of the underlay's family.
        func nextFrame() throws -> [UInt8] {
            var frame = [UInt8](repeating: 0, count: 4096)
            let transport = families.underlay == .ipv4 ? 14 + 9 : 14 + 6
            while true {
                let count = recv(wire, &frame, frame.count, 0)
                guard count > 0 else { throw CommandFailureOfTest(what: "no frame came") }
                if count > 54, Array(frame[12..<14]) == word(families.ethernetType), frame[transport] == 17 {
                    return Array(frame.prefix(count))
                }
            }
        }

        /// The next packet of the pod that the ring would read, behind its 10 bytes of virtio header.
        func nextRead() throws -> [UInt8] {
            var packet = [UInt8](repeating: 0, count: 70_000)
            let source = addressBytes(families.pod(1, 7))
            while true {
                var ready = pollfd(fd: tunnel.queues[0].descriptor, events: Int16(POLLIN), revents: 0)
                guard poll(&ready, 1, 10_000) == 1 else {
                    throw CommandFailureOfTest(what: "nothing to read")
                }
                let count = read(tunnel.queues[0].descriptor, &packet, packet.count)
                let bytes = Array(packet[10..<max(10, count)])
                // The kernel asks for routers, too.
                if bytes.dropFirst(families.inner == .ipv4 ? 12 : 8).starts(with: source) { return bytes }
            }
        }

        static func make(
            _ families: Families = .ipv4, queues: Int = 1,
            _ body: @escaping @Sendable (Node) throws -> Void
        ) async throws {
            let namespace = try await NetworkNamespace.make()
            try await namespace.run { try body(Node(families, queues: queues)) }
        }
    }

    private struct CommandFailureOfTest: Error {
        let what: String
    }

    /// A UDP socket of node 1's pod.
    private static func pod(_ families: Families = .ipv4, port: UInt16) -> Int32 {
        let descriptor = socket(
            families.inner == .ipv4 ? AF_INET : AF_INET6,
            Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        let own = Endpoint(address: families.pod(1, 7), port: port)
        let bound = own.withSocketName { bind(descriptor, $0, $1) }
        var timeout = timeval(tv_sec: 10, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        #expect(bound == 0)
        return descriptor
    }

    @Test(arguments: Families.all)
    func aPacketLeavesInTheDatagramThatTheWireFormatSays(families: Families) async throws {
        try await Node.make(families) { node in
            let pod = Self.pod(families, port: 12345)
            defer { close(pod) }
            // A mark and a priority are for the packet's own way; the datagram has none of either to be routed by.
            var mark: UInt32 = 0x4000
            setsockopt(pod, SOL_SOCKET, SO_MARK, &mark, socklen_t(MemoryLayout<UInt32>.size))
            try execute(
                "ip \(families.underlay == .ipv4 ? "-4" : "-6") rule add fwmark 0x4000 oif under unreachable")
            node.send([1, 2, 3, 4], from: pod, to: families.pod(2, 9))
            let frame = try node.nextFrame()
            #expect(frame[0..<6] == [2, 0, 0, 0, 0, 2])
            #expect(frame[6..<12] == [2, 0, 0, 0, 0, 1])
            var expected = OuterFrame(families)
            (expected.header.source, expected.header.destination) = (families.node(1), families.node(2))
            expected.inner = InnerPacket(families).turned
            expected.inner.header.hops = 63
            // What the kernel's UDP writes: an identification, and a checksum that the card would finish.
            let inner = families.innerOffset
            var varying = [inner + families.innerHeaderBytes + 6..<inner + families.innerHeaderBytes + 8]
            if families.inner == .ipv4 {
                #expect(frame[inner + 4] == 0 || frame[inner + 6] & 0x40 != 0)
                varying += [inner + 4..<inner + 6, inner + 10..<inner + 12]
                #expect(Self.sum(frame[inner..<(inner + 20)]) == 0xFFFF)
            }
            if families.underlay == .ipv4 { #expect(Self.sum(frame[14..<34]) == 0xFFFF) }
            var (seen, wanted) = (frame, expected.bytes)
            for place in varying {
                seen.replaceSubrange(place, with: [0, 0])
                wanted.replaceSubrange(place, with: [0, 0])
            }
            #expect(seen.dropFirst(12) == wanted.dropFirst(12))
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

    @Test(arguments: Families.all) func whatIsLargeIsReadFromTheDevice(families: Families) async throws {
        try await Node.make(families) { node in
            let pod = Self.pod(families, port: 12345)
            defer { close(pod) }
            node.send([UInt8](repeating: 7, count: 1000), from: pod, to: families.pod(2, 9))
            let large = try node.nextRead()
            #expect(large.count == families.innerHeaderBytes + 1008)
            // And so is what follows it, in its order.
            node.send([1], from: pod, to: families.pod(2, 9))
            let small = try node.nextRead()
            #expect(small.count == families.innerHeaderBytes + 9)
        }
    }

    /// What is left to the packet threads is counted for the one whose queue the device puts it into.
    @Test(arguments: AddressFamily.allCases) func eachIsCountedForItsQueue(inner: AddressFamily) async throws
    {
        let families = Families(underlay: .ipv4, inner: inner)
        try await Node.make(families, queues: 3) { node in
            #expect(node.tunnel.steerFlows())
            for port in 0..<40 as Range<UInt16> {
                let pod = Self.pod(families, port: 12345 + port)
                defer { close(pod) }
                node.send([UInt8](repeating: 7, count: 1000), from: pod, to: families.pod(2, 9))
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

    @Test(arguments: Families.all) func aSuperPacketIsReadWhole(families: Families) async throws {
        try await Node.make(families) { node in
            let pod = Self.pod(families, port: 12345)
            defer { close(pod) }
            var segment: Int32 = 20
            setsockopt(
                pod, Int32(IPPROTO_UDP), UDP_SEGMENT, &segment, socklen_t(MemoryLayout<Int32>.size))
            // Of small segments, and small as a whole.
            node.send([UInt8](repeating: 7, count: 100), from: pod, to: families.pod(2, 9))
            let whole = try node.nextRead()
            #expect(whole.count == families.innerHeaderBytes + 108)
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
            node.send([1, 2, 3, 4], from: pod, to: .v4(IPv4Address(8, 1, 0, 2)))
            let packet = try node.nextRead()
            // IPv4, UDP to VXLAN's port, VXLAN, Ethernet, IPv4, UDP; with all its hops.
            #expect(packet.count == 20 + 8 + 8 + 14 + 20 + 8 + 4)
            #expect(packet[9] == 17 && packet[22..<24] == [0x12, 0xB5])
            #expect(packet[8] == 64)
        }
    }

    @Test(arguments: Families.all)
    func aDatagramArrivesAtThePodWithOneHopLess(families: Families) async throws {
        try await Node.make(families) { node in
            let pod = Self.pod(families, port: 54321)
            defer { close(pod) }
            var frame = OuterFrame(families)
            let pseudoHeader =
                addressBytes(frame.inner.header.source) + addressBytes(frame.inner.header.destination)
                + [0, 17, 0, 12]
            let checksum = ~Self.sum((pseudoHeader + frame.inner.payload)[...]) & 0xFFFF
            frame.inner.payload.replaceSubrange(6..<8, with: word(UInt16(checksum)))
            var bytes = frame.bytes
            bytes.replaceSubrange(0..<6, with: [2, 0, 0, 0, 0, 1])
            let watched = open_frame_socket("over")
            defer { close(watched) }
            node.forwarder.refresh()
            #expect(Glibc.send(node.wire, bytes, bytes.count, 0) == bytes.count)
            var received = [UInt8](repeating: 0, count: 64)
            let count = recv(pod, &received, received.count, 0)
            #expect(received.prefix(max(0, count)) == [1, 2, 3, 4])
            #expect(node.forwarder.counts(ofSlot: 3).packetsReceived == 1)
            // As it came into the device.
            var seen = [UInt8](repeating: 0, count: 256)
            let seenCount = recv(watched, &seen, seen.count, 0)
            frame.inner.header.hops = 63
            #expect(Array(seen.prefix(max(0, seenCount))) == frame.inner.bytes)
        }
    }
}
