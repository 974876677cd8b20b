import CLinux
import Glibc

/// A netlink socket's file descriptor, closed with its owner.
struct NetlinkDescriptor: ~Copyable {
    /// What the kernel sends in one datagram is at most 32 KiB (`NLMSG_GOODSIZE` and the dump's limit in
    /// net/netlink/af_netlink.c), but for a notification with very many attributes; twice that is room for all.
    private static let datagramLimit = 64 * 1024

    /// How long a reply may take before the request fails instead of hanging. The kernel answers in microseconds.
    private static let replyTimeoutSeconds = 10

    /// The room for notifications that wait, in bytes. One of a route takes about 1 KiB with the kernel's own data,
    /// so that a burst of two thousand finds room; with the usual 208 KiB it is two hundred.
    private static let notificationBufferBytes: UInt32 = 2 << 20

    let number: Int32

    /// Opens a socket, for rtnetlink unless another protocol is given, that gets the notifications of `groups` and, where
    /// the kernel has them, of `optionalGroups`: `RTNLGRP_*` numbers. It belongs to the network namespace of the calling
    /// thread.
    init(
        protocolNumber: Int32 = NETLINK_ROUTE, groups: [UInt32], optionalGroups: [UInt32] = [],
        operation: String
    ) throws(NetlinkError) {
        number = socket(AF_NETLINK, Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue), protocolNumber)
        guard number >= 0 else { throw NetlinkError(operation: operation, code: errno) }
        // Both are in every kernel that twill runs on; without them errors only say less.
        set(NETLINK_EXT_ACK, to: 1)
        set(NETLINK_CAP_ACK, to: 1)
        // Linux 4.20: lists are filtered by the kernel. An older one answers with more, which is passed over.
        set(NETLINK_GET_STRICT_CHK, to: 1)
        var timeout = timeval(tv_sec: NetlinkDescriptor.replyTimeoutSeconds, tv_usec: 0)
        setsockopt(number, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        var name = sockaddr_nl()
        name.nl_family = sa_family_t(AF_NETLINK)
        let bound = withUnsafePointer(to: &name) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(number, $0, socklen_t(MemoryLayout<sockaddr_nl>.size))
            }
        }
        guard bound == 0 else { throw NetlinkError(operation: operation, code: errno) }
        for group in groups {
            guard set(NETLINK_ADD_MEMBERSHIP, to: group) else {
                throw NetlinkError(operation: operation, code: errno)
            }
        }
        for group in optionalGroups { set(NETLINK_ADD_MEMBERSHIP, to: group) }
        if !groups.isEmpty { makeRoomForNotifications() }
    }

    /// Without the right to it (CAP_NET_ADMIN), the machine's limit holds, and a burst is more often told as lost.
    private func makeRoomForNotifications() {
        withUnsafePointer(to: NetlinkDescriptor.notificationBufferBytes) {
            for option in [SO_RCVBUFFORCE, SO_RCVBUF]
            where setsockopt(number, SOL_SOCKET, option, $0, socklen_t(MemoryLayout<UInt32>.size)) == 0 {
                return
            }
        }
    }

    deinit { close(number) }

    @discardableResult
    private func set(_ option: Int32, to value: UInt32) -> Bool {
        withUnsafePointer(to: value) {
            setsockopt(number, SOL_NETLINK, option, $0, socklen_t(MemoryLayout<UInt32>.size)) == 0
        }
    }

    /// Sends one message to the kernel.
    func send(_ message: [UInt8], operation: String) throws(NetlinkError) {
        while true {
            let sent = Glibc.send(number, message, message.count, 0)
            if sent == message.count { return }
            guard sent < 0, errno == EINTR else { throw NetlinkError(operation: operation, code: errno) }
        }
    }

    /// Waits for the kernel's next datagram; what other processes send is passed over.
    func receive(operation: String) throws(NetlinkError) -> [UInt8] {
        var sender = sockaddr_nl()
        while true {
            var count = 0
            let datagram = [UInt8](unsafeUninitializedCapacity: NetlinkDescriptor.datagramLimit) {
                buffer, filled in
                var senderSize = socklen_t(MemoryLayout<sockaddr_nl>.size)
                count = withUnsafeMutablePointer(to: &sender) {
                    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                        // MSG_TRUNC: the result is the datagram's own length, however much fits.
                        recvfrom(
                            number, buffer.baseAddress, buffer.count, Int32(MSG_TRUNC), $0,
                            &senderSize)
                    }
                }
                filled = max(0, min(count, buffer.count))
            }
            switch count {
            case ..<0 where errno == EINTR:
                continue
            case ..<0 where errno == EAGAIN:
                throw NetlinkError(operation: operation, code: ETIMEDOUT, message: "no reply from the kernel")
            case ..<0:
                throw NetlinkError(operation: operation, code: errno)
            case _ where count > NetlinkDescriptor.datagramLimit:
                throw NetlinkError(
                    operation: operation, code: EMSGSIZE, message: "a datagram of \(count) bytes")
            default:
                if sender.nl_pid == 0 { return datagram }
            }
        }
    }
}
