import Addresses
import ArgumentParser
import EndpointArgument
import Glibc
import Devices

/// What is left of an overlay when all that is its own work is taken out: the kernel's part, two copies a node.
///
/// A packet or super-packet is read from the TUN device, and its bytes, virtio header included, are sent as they are, in
/// datagrams of the underlay's size; what arrives is put together again by length and written. No header is made,
/// no checksum looked at, nothing looked up, nothing gathered or scattered. What it takes is the kernel's share of an
/// overlay through TUN and UDP sockets; another loop around the same calls may still be faster. It carries two nodes only, one
/// datagram lost costs all until the next whole packet, and a super-packet too long for one send (65,507 bytes) is lost.
///
/// With `--cut` it does what the wire format asks of anybody, at its cheapest, and nothing else (Cut.swift).
@main
struct Floor: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "floor",
        abstract: "The kernel's part of an overlay, alone: bytes between TUN and UDP.",
        discussion: "Makes the TUN device and leaves its address, its route and its state to `ip`.")

    @Option(help: "Name of the TUN device to make.")
    var tun: String

    @Option(help: "Address and port of the underlay socket.", transform: parseEndpoint)
    var bind: Endpoint

    @Option(help: "The other node's.", transform: parseEndpoint)
    var peer: Endpoint

    @Option(help: "Payload of a datagram in bytes.")
    var segment = 1472

    @Flag(
        help: """
            Cut super-packets of TCP over IPv4 into segments with a header each, sum up their payloads, and put them \
            together again.
            """)
    var cut = false

    func validate() throws {
        guard (68...65_507).contains(segment) else {
            throw ValidationError("--segment \(segment): 68 to 65507")
        }
    }

    func run() throws {
        let device = try TunnelDevice.open(
            name: tun, queueCount: 1, offloads: .all, patienceMilliseconds: 2000)
        let socket = try UnderlaySocket.open(
            bind, bufferBytes: 8 << 20, segmentation: true, coalescing: true)
        let tunnel = device.queues[0].descriptor
        var size = Int32(segment)
        let segmentOption: Int32 = 103  // UDP_SEGMENT, linux/udp.h
        let segments = setsockopt(
            socket.descriptor, Int32(IPPROTO_UDP), segmentOption, &size, socklen_t(MemoryLayout<Int32>.size))
        guard segments == 0, socket.offloads.coalescing, device.offloads.contains(.tcp4) else {
            throw ValidationError("this kernel lacks an offload: TSO on TUN, UDP_SEGMENT or UDP_GRO")
        }
        for descriptor in [tunnel, socket.descriptor] { _ = fcntl(descriptor, F_SETFL, O_NONBLOCK) }
        var passage = Passage(
            tunnel: tunnel, socket: socket.descriptor, peer: peer, cut: cut ? Cut(segmentBytes: segment) : nil
        )
        passage.run()
    }
}

/// Both directions on one thread, in turn, and a poll when neither has anything: of the loops that were tried, the one
/// that takes the least processor time.
private struct Passage {
    /// The virtio header, and an IPv6 packet of the largest payload.
    private static let longestPacket = TunnelDevice.virtioHeaderLength + 40 + 65_535

    let tunnel: Int32
    let socket: Int32
    private var address: sockaddr_in
    private let outbound = UnsafeMutableRawPointer.allocate(byteCount: Passage.longestPacket, alignment: 64)
    /// A packet that has arrived in part, and room for one receive behind it.
    private let inbound = UnsafeMutableRawPointer.allocate(
        byteCount: 2 * Passage.longestPacket, alignment: 64)
    private var inboundCount = 0
    private var cut: Cut?

    init(tunnel: Int32, socket: Int32, peer: Endpoint, cut: Cut?) {
        self.cut = cut
        self.tunnel = tunnel
        self.socket = socket
        address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = peer.port.bigEndian
        address.sin_addr.s_addr = peer.addressIPv4.networkBytes
    }

    /// Until a signal ends the process.
    mutating func run() {
        var waits = [
            pollfd(fd: tunnel, events: Int16(POLLIN), revents: 0),
            pollfd(fd: socket, events: Int16(POLLIN), revents: 0),
        ]
        while true {
            let sent = sendOne()
            let received = receiveOne()
            if !sent, !received { _ = poll(&waits, nfds_t(waits.count), -1) }
        }
    }

    private mutating func sendOne() -> Bool {
        let count = read(tunnel, outbound, Passage.longestPacket)
        guard count > 0 else { return false }
        if cut?.send(outbound, count: count, over: socket, to: &address) == true { return true }
        let (socket, outbound) = (socket, outbound)
        _ = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                sendto(socket, outbound, count, 0, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        return true
    }

    private mutating func receiveOne() -> Bool {
        let count = recv(socket, inbound + inboundCount, Passage.longestPacket, 0)
        guard count > 0 else { return false }
        inboundCount += count
        var offset = 0
        while true {
            if let length = cut?.write(inbound + offset, count: inboundCount - offset, to: tunnel) {
                offset += length
                continue
            }
            guard let length = packetLength(at: offset) else { break }
            guard length > 0 else {
                // Something was lost: what is here belongs to no packet that could be found.
                inboundCount = 0
                return true
            }
            guard offset + length <= inboundCount else { break }
            _ = write(tunnel, inbound + offset, length)
            offset += length
        }
        if offset > 0 {
            memmove(inbound, inbound + offset, inboundCount - offset)
            inboundCount -= offset
        }
        return true
    }

    /// The bytes of the packet that begins at `offset`, virtio header included: nil where too little has come to tell, 0
    /// where no packet begins there.
    private func packetLength(at offset: Int) -> Int? {
        let header = TunnelDevice.virtioHeaderLength
        guard inboundCount - offset >= header + 20 else { return nil }
        let packet = inbound + offset + header
        func length(at place: Int) -> Int {
            Int(UInt16(bigEndian: packet.loadUnaligned(fromByteOffset: place, as: UInt16.self)))
        }
        // RFC 791: total length; RFC 8200: payload length, behind 40 bytes of header.
        switch packet.load(as: UInt8.self) >> 4 {
        case 4: return header + max(length(at: 2), 20)
        case 6: return header + 40 + length(at: 4)
        default: return 0
        }
    }
}
