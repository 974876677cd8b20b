import Addresses
import CMessages
import Glibc

/// Moves packets between a TUN and a UDP socket on one thread, in the order and with the calls of flannel's
/// `proxy_amd64.c`: both directions in turn until neither has anything, then a poll.
struct Forwarder: ~Copyable {
    private let tun: Int32
    private let socket: Int32
    private let routes: [(subnet: IPv4Prefix, address: sockaddr_in)]
    private let mtu: Int
    private let batch: Int
    /// `batch` slots of `slotBytes` each; only the loop touches them, and nothing outlives a call.
    private let slots: UnsafeMutableRawPointer
    private let slotBytes: Int
    private let vectors: UnsafeMutablePointer<iovec>
    private let addresses: UnsafeMutablePointer<sockaddr_in>
    private let messages: UnsafeMutablePointer<mmsghdr>
    private var counts = Counts()

    init(tun: Int32, socket: Int32, peers: [Peer], mtu: Int, batch: Int) {
        self.tun = tun
        self.socket = socket
        self.mtu = mtu
        self.batch = batch
        routes = peers.map { ($0.subnet, socketAddress($0.endpoint)) }
        slotBytes = (mtu + 63) / 64 * 64
        slots = .allocate(byteCount: slotBytes * batch, alignment: 64)
        vectors = .allocate(capacity: batch)
        addresses = .allocate(capacity: batch)
        messages = .allocate(capacity: batch)
        for index in 0..<batch {
            (vectors + index).initialize(
                to: iovec(iov_base: slots + index * slotBytes, iov_len: mtu))
            (addresses + index).initialize(to: sockaddr_in())
            (messages + index).initialize(to: mmsghdr())
            messages[index].msg_hdr.msg_iov = vectors + index
            messages[index].msg_hdr.msg_iovlen = 1
        }
    }

    deinit {
        slots.deallocate()
        vectors.deallocate()
        addresses.deallocate()
        messages.deallocate()
    }

    /// Forwards until a signal asks to stop.
    mutating func run() throws {
        var waits = [
            pollfd(fd: tun, events: Int16(POLLIN), revents: 0),
            pollfd(fd: socket, events: Int16(POLLIN), revents: 0),
        ]
        while !StopRequest.stop.load(ordering: .relaxed) {
            if StopRequest.counters.exchange(false, ordering: .relaxed) { counts.report() }
            counts.polls += 1
            guard poll(&waits, nfds_t(waits.count), -1) >= 0 || errno == EINTR else {
                throw SystemCallError("poll")
            }
            var isActive = true
            while isActive && !StopRequest.stop.load(ordering: .relaxed) {
                isActive = batch == 1 ? sendOne() : sendBatch()
                isActive = (batch == 1 ? receiveOne() : receiveBatch()) || isActive
            }
        }
        counts.report()
    }

    /// Reads a packet from the TUN into a slot: its size where it may be sent on, 0 where it was dropped, nil
    /// where there was none.
    private mutating func readInner(into slot: UnsafeMutableRawPointer) -> Int? {
        counts.tunReads += 1
        let count = read(tun, slot, mtu)
        guard count > 0 else { return nil }
        counts.bytesToUser += UInt64(count)
        guard InnerPacket.isIPv4(slot, count: count), InnerPacket.decrementTimeToLive(slot) else {
            counts.dropped += 1
            return 0
        }
        return count
    }

    private func route(to destination: IPv4Address) -> sockaddr_in? {
        for route in routes where route.subnet.contains(destination) { return route.address }
        return nil
    }

    private mutating func sendOne() -> Bool {
        guard let count = readInner(into: slots) else { return false }
        guard count > 0 else { return true }
        guard var address = route(to: InnerPacket.destination(slots)) else {
            counts.dropped += 1
            return true
        }
        counts.socketSends += 1
        let sent = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                sendto(socket, slots, count, 0, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        counts.sent(packets: sent < 0 ? 0 : 1, bytes: max(sent, 0), of: 1)
        return true
    }

    private mutating func receiveOne() -> Bool {
        counts.socketReceives += 1
        let count = recv(socket, slots, mtu, 0)
        guard count > 0 else { return false }
        writeInner(slots, count: count)
        return true
    }

    private mutating func writeInner(_ slot: UnsafeMutableRawPointer, count: Int) {
        counts.bytesToUser += UInt64(count)
        guard InnerPacket.isIPv4(slot, count: count), InnerPacket.decrementTimeToLive(slot) else {
            counts.dropped += 1
            return
        }
        counts.tunWrites += 1
        let written = write(tun, slot, count)
        counts.received(packets: written < 0 ? 0 : 1, bytes: max(written, 0))
    }

    private mutating func sendBatch() -> Bool {
        var filled = 0
        var bytes = 0
        var sawAny = false
        while filled < batch {
            let slot = slots + filled * slotBytes
            guard let count = readInner(into: slot) else { break }
            sawAny = true
            guard count > 0 else { continue }
            guard let address = route(to: InnerPacket.destination(slot)) else {
                counts.dropped += 1
                continue
            }
            addresses[filled] = address
            vectors[filled].iov_len = count
            messages[filled].msg_hdr.msg_name = UnsafeMutableRawPointer(addresses + filled)
            messages[filled].msg_hdr.msg_namelen = socklen_t(MemoryLayout<sockaddr_in>.size)
            bytes += count
            filled += 1
        }
        guard filled > 0 else { return sawAny }
        counts.socketSends += 1
        let sent = sendmmsg(socket, messages, UInt32(filled), 0)
        counts.sent(packets: max(Int(sent), 0), bytes: sent == filled ? bytes : 0, of: filled)
        return true
    }

    private mutating func receiveBatch() -> Bool {
        for index in 0..<batch {
            vectors[index].iov_len = mtu
            messages[index].msg_hdr.msg_name = nil
            messages[index].msg_hdr.msg_namelen = 0
        }
        counts.socketReceives += 1
        let received = recvmmsg(socket, messages, UInt32(batch), Int32(MSG_DONTWAIT), nil)
        guard received > 0 else { return false }
        for index in 0..<Int(received) {
            writeInner(slots + index * slotBytes, count: Int(messages[index].msg_len))
        }
        return true
    }
}

/// What the forwarder did, printed as name=value lines.
struct Counts {
    var polls: UInt64 = 0
    var tunReads: UInt64 = 0
    var tunWrites: UInt64 = 0
    var socketSends: UInt64 = 0
    var socketReceives: UInt64 = 0
    var bytesToUser: UInt64 = 0
    var bytesToKernel: UInt64 = 0
    var packetsSent: UInt64 = 0
    var packetsReceived: UInt64 = 0
    var dropped: UInt64 = 0

    /// Counts a send of `offered` packets of which the kernel took `packets`.
    mutating func sent(packets: Int, bytes: Int, of offered: Int) {
        packetsSent += UInt64(packets)
        bytesToKernel += UInt64(bytes)
        dropped += UInt64(offered - packets)
    }

    /// Counts a write to the TUN.
    mutating func received(packets: Int, bytes: Int) {
        packetsReceived += UInt64(packets)
        bytesToKernel += UInt64(bytes)
        dropped += UInt64(1 - packets)
    }

    func report() {
        let lines = [
            ("polls", polls), ("tun_reads", tunReads), ("tun_writes", tunWrites),
            ("socket_sends", socketSends), ("socket_receives", socketReceives),
            ("bytes_to_user", bytesToUser), ("bytes_to_kernel", bytesToKernel),
            ("packets_sent", packetsSent), ("packets_received", packetsReceived), ("dropped", dropped),
        ]
        let text = lines.map { "\($0.0)=\($0.1)\n" }.joined()
        _ = text.withCString { write(STDERR_FILENO, $0, text.utf8.count) }
    }
}
