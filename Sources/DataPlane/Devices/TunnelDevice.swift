// How it works. A TUN device is opened by name through /dev/net/tun; each open of the same name is one more queue
// where the device is multi-queue. Reads and writes carry a 10-byte virtio_net_hdr before the IP packet
// (IFF_VNET_HDR), which is how super-packets and unfinished checksums cross. The descriptor stays in blocking
// mode: io_uring answers EAGAIN instead of waiting where a descriptor is non-blocking, so "do not wait" is said
// with each operation.
//
// Every device is made multi-queue, however many queues it has at first, so that it can get more without being made
// anew, and without a queueing discipline, of which the kernel would keep one for each of 256 possible queues, 25 MB in
// all, and which holds nothing: the driver takes every packet at once, into the queue's own ring, or drops it (ADR 92).

import CLinux
import Glibc

/// Offloads of a TUN device: what it may hand over unfinished.
public struct TunnelOffloads: OptionSet, Sendable {
    /// The `TUN_F_*` bits of linux/if_tun.h.
    public let rawValue: UInt32
    /// Makes a set from `TUN_F_*` bits.
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// Unfinished TCP and UDP checksums; the others need it.
    public static let checksum = TunnelOffloads(rawValue: UInt32(TUN_F_CSUM))
    /// TCP super-packets over IPv4.
    public static let tcp4 = TunnelOffloads(rawValue: UInt32(TUN_F_TSO4))
    /// TCP super-packets over IPv6.
    public static let tcp6 = TunnelOffloads(rawValue: UInt32(TUN_F_TSO6))
    /// TCP super-packets whose first segment carries CWR.
    public static let tcpECN = TunnelOffloads(rawValue: UInt32(TUN_F_TSO_ECN))
    /// UDP super-packets, IPv4 and IPv6: the kernel takes both or none (drivers/net/tun.c, since 6.2).
    public static let udp: TunnelOffloads = [TunnelOffloads(rawValue: 0x20), TunnelOffloads(rawValue: 0x40)]

    /// All that twill knows.
    public static let all: TunnelOffloads = [.checksum, .tcp4, .tcp6, .tcpECN, .udp]
}

/// One queue of a TUN device.
public struct TunnelQueue: Sendable {
    /// The queue's descriptor; the owner closes it.
    public let descriptor: Int32
}

/// Why a TUN device could not be made.
public struct TunnelError: Error, CustomStringConvertible, Equatable {
    /// What was tried, on what.
    public let action: String
    /// The kernel's error number.
    public let errorNumber: Int32

    /// What happened, to what, and what to do about it.
    public var description: String {
        let reason = String(cString: strerror(errorNumber))
        let advice: String =
            switch errorNumber {
            case EPERM, EACCES: "; run as root, or with CAP_NET_ADMIN"
            case ENOENT, ENODEV, ENXIO:
                "; load the tun module (modprobe tun) and see that /dev/net/tun exists"
            case EBUSY: "; another process holds that name"
            case EINVAL: "; the name is taken by a device of another kind, or the kernel lacks a flag"
            default: ""
            }
        return "cannot \(action): \(reason)\(advice)"
    }
}

/// A TUN device of one or several queues, gone once all its queues are closed, unless it is persistent.
public struct TunnelDevice: Sendable {
    /// The device's name, at most 15 bytes.
    public let name: String
    /// The kernel's interface index.
    public let index: UInt32
    /// One queue for each worker.
    public private(set) var queues: [TunnelQueue]
    /// The offloads that the kernel accepted.
    public let offloads: TunnelOffloads

    /// The longest name: IFNAMSIZ (linux/if.h) less the terminating zero.
    public static let nameLimitBytes = 15
    /// The bytes of `virtio_net_hdr` before each packet.
    public static let virtioHeaderLength = 10

    /// Opens a device of `queueCount` queues.
    ///
    /// A process that was killed with ring requests pending can hold its device for a while: where the name is busy,
    /// opening is tried again until `patienceMilliseconds` are over.
    ///
    /// - Parameters:
    ///   - name: at most 15 bytes. A persistent TUN device of that name that nobody has open is taken as it is.
    ///   - queueCount: how many queues it gets, one for each worker.
    ///   - wanted: the offloads to ask for. What the kernel refuses is left out of the device's `offloads`.
    ///   - patienceMilliseconds: how long a name that is held is waited for.
    ///   - busy: called once, the first time that the name is held by somebody else.
    /// - Returns: the device, whose descriptors are the caller's to close (`close`).
    /// - Throws: `TunnelError` with the call that failed and the kernel's error number.
    public static func open(
        name: String, queueCount: Int, offloads wanted: TunnelOffloads, patienceMilliseconds: Int,
        busy: () -> Void = {}
    ) throws(TunnelError) -> TunnelDevice {
        guard !name.isEmpty, name.utf8.count <= nameLimitBytes else {
            throw TunnelError(
                action: "make a TUN device named '\(name)' (1 to \(nameLimitBytes) bytes)",
                errorNumber: EINVAL)
        }
        let limit = ContinuousClock.now + .milliseconds(patienceMilliseconds)
        var isTold = false
        while true {
            do throws(TunnelError) {
                return try open(name: name, queueCount: queueCount, wanted: wanted)
            } catch {
                guard error.errorNumber == EBUSY, ContinuousClock.now < limit else { throw error }
                if !isTold { busy() }
                isTold = true
                usleep(2_000)
            }
        }
    }

    private static func open(
        name: String, queueCount: Int, wanted: TunnelOffloads
    ) throws(TunnelError) -> TunnelDevice {
        var queues: [TunnelQueue] = []
        func fail(_ action: @autoclosure () -> String) -> TunnelError {
            // Before the text is made, which may allocate and change it.
            let code = errno
            let error = TunnelError(action: action(), errorNumber: code)
            for queue in queues { Glibc.close(queue.descriptor) }
            return error
        }
        var isMultiQueue = true
        for number in 0..<queueCount {
            let descriptor = Glibc.open("/dev/net/tun", O_RDWR | O_CLOEXEC)
            guard descriptor >= 0 else { throw fail("open /dev/net/tun") }
            queues.append(TunnelQueue(descriptor: descriptor))
            let isAttached =
                number == 0
                ? attachFirst(descriptor, name, queueCount, &isMultiQueue)
                : twill_tun_attach(descriptor, name, 1) == 0
            guard isAttached else { throw fail("make the TUN device \(name)") }
            var headerLength = Int32(truncatingIfNeeded: virtioHeaderLength)
            guard twill_tun_set_vnet_header(descriptor, &headerLength) == 0 else {
                throw fail("set the virtio header of \(name)")
            }
        }
        let offloads = accepted(wanted, queues[0].descriptor)
        // Somebody may have renamed it meanwhile, and given its name to another device.
        guard let index = TunnelDevice.index(of: queues[0], named: name) else {
            throw fail("find the new TUN device \(name)")
        }
        // Where it is refused, the kernel queues as it does for other devices.
        if isMultiQueue { _ = twill_link_without_queue(index) }
        return TunnelDevice(name: name, index: index, queues: queues, offloads: offloads)
    }

    /// Makes a device, or takes a persistent one of its name that nobody has open. One that somebody has open would give
    /// us a queue all the same, and with it a part of that one's packets.
    ///
    /// - Parameter isMultiQueue: false where it has room for one queue alone, as persistent ones that others made may.
    /// - Returns: whether it did; else `errno` says why not.
    private static func attachFirst(
        _ descriptor: Int32, _ name: String, _ queueCount: Int, _ isMultiQueue: inout Bool
    ) -> Bool {
        if twill_tun_create(descriptor, name) == 0 { return true }
        guard errno == EBUSY else { return false }
        if twill_tun_is_held(name) == 1 {
            errno = EBUSY
            return false
        }
        if twill_tun_attach(descriptor, name, 1) == 0 { return true }
        guard errno == EINVAL, queueCount == 1 else { return false }
        isMultiQueue = false
        return twill_tun_attach(descriptor, name, 0) == 0
    }

    /// Takes over the queues of a device that another process, or another part of this one, has opened.
    ///
    /// - Parameters:
    ///   - name: what the device must be called.
    ///   - descriptors: its queues, in their order, which become the device's to close.
    ///   - offloads: what it was opened with.
    /// - Throws: `TunnelError` where they are no such queues; then they are still the caller's.
    public init(
        named name: String, adopting descriptors: [Int32], offloads: TunnelOffloads
    ) throws(TunnelError) {
        let queues = descriptors.map { TunnelQueue(descriptor: $0) }
        errno = EBADF
        guard let first = queues.first, let index = TunnelDevice.index(of: first, named: name) else {
            throw TunnelError(action: "take over the TUN device \(name)", errorNumber: errno)
        }
        for queue in queues {
            var flags: UInt16 = 0
            let isOpen = twill_tun_flags(queue.descriptor, &flags) == 0
            guard isOpen, flags & UInt16(IFF_VNET_HDR) != 0,
                TunnelDevice.index(of: queue, named: name) == index
            else {
                throw TunnelError(
                    action: "take over a queue of \(name)", errorNumber: isOpen ? EINVAL : errno)
            }
        }
        self.init(name: name, index: index, queues: queues, offloads: offloads)
    }

    private init(name: String, index: UInt32, queues: [TunnelQueue], offloads: TunnelOffloads) {
        self.name = name
        self.index = index
        self.queues = queues
        self.offloads = offloads
    }

    /// The same device with other offloads, as far as the kernel takes them.
    public func with(offloads wanted: TunnelOffloads) -> TunnelDevice {
        TunnelDevice(
            name: name, index: index, queues: queues,
            offloads: TunnelDevice.accepted(wanted, queues[0].descriptor))
    }

    /// The same device with so many queues more. Packets come to them once they are steered there (`steerFlows`), which
    /// they must have been among the queues before: the kernel would spread them by itself.
    ///
    /// - Throws: `TunnelError` with the call that failed; then there are as many as before.
    public func adding(queueCount: Int) throws(TunnelError) -> TunnelDevice {
        var device = self
        for _ in 0..<queueCount {
            let descriptor = Glibc.open("/dev/net/tun", O_RDWR | O_CLOEXEC)
            if descriptor >= 0, twill_tun_attach(descriptor, name, 1) == 0 {
                device.queues.append(TunnelQueue(descriptor: descriptor))
                continue
            }
            let error = TunnelError(action: "add a queue to \(name)", errorNumber: errno)
            if descriptor >= 0 { Glibc.close(descriptor) }
            for queue in device.queues[queues.count...] { Glibc.close(queue.descriptor) }
            throw error
        }
        return device
    }

    /// The same device with its first queues alone; the others are open still.
    public func narrowed(to count: Int) -> TunnelDevice {
        var device = self
        device.queues.removeSubrange(count...)
        return device
    }

    /// The same device with its first queues alone; the others are closed, and what waits in them is lost. They are taken off
    /// the device first: a service manager may have copies of them, with which they would stay, unread, and a later one would
    /// come behind them.
    public func closingQueues(behind count: Int) -> TunnelDevice {
        var device = self
        for queue in queues[count...].reversed() {
            _ = twill_tun_detach(queue.descriptor)
            Glibc.close(queue.descriptor)
        }
        device.queues.removeSubrange(count...)
        return device
    }

    /// Says whether the device stays when its last queue is closed, with its addresses and routes: what goes there is
    /// dropped then, until somebody opens it again.
    public func setPersistent(_ isPersistent: Bool) {
        _ = twill_tun_set_persistent(queues[0].descriptor, isPersistent ? 1 : 0)
    }

    /// The index of the device that a queue belongs to, if it has that name before and after it was looked up.
    private static func index(of queue: TunnelQueue, named name: String) -> UInt32? {
        func isNamed() -> Bool {
            // IFNAMSIZ bytes, the terminating zero among them.
            var bytes = [CChar](repeating: 0, count: nameLimitBytes + 1)
            guard twill_tun_name(queue.descriptor, &bytes) == 0 else { return false }
            return String(decoding: bytes.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
                == name
        }
        errno = ENODEV
        guard isNamed() else { return nil }
        let index = if_nametoindex(name)
        return index != 0 && isNamed() ? index : nil
    }

    /// How many packets the kernel dropped that were to be read from the device, because its queue was full or it was
    /// down; nil where the kernel does not tell. Counts from the device's beginning. A system call or three.
    public func droppedPackets() -> UInt64? {
        var dropped: UInt64 = 0
        return twill_link_dropped(index, &dropped) == 0 ? dropped : nil
    }

    /// Sets all wanted offloads that the kernel takes, each tried on top of those before; what is refused changes
    /// nothing.
    private static func accepted(_ wanted: TunnelOffloads, _ descriptor: Int32) -> TunnelOffloads {
        var accepted: TunnelOffloads = []
        for offload: TunnelOffloads in [.checksum, .tcp4, .tcp6, .tcpECN, .udp]
        where wanted.isSuperset(of: offload) {
            let larger = accepted.union(offload)
            if twill_tun_set_offload(descriptor, larger.rawValue) == 0 { accepted = larger }
        }
        return accepted
    }

    /// Lets a flow's packets come from one queue, in both directions of the flow the same.
    ///
    /// Left alone, the kernel takes the queue that the flow's last packet was written to, which another peer's
    /// choice can move in mid-flow.
    ///
    /// - Parameter count: among how many of the queues, the first ones; nil: all of them.
    /// - Returns: whether it could; that takes CAP_BPF or CAP_SYS_ADMIN.
    public func steerFlows(among count: Int? = nil) -> Bool {
        twill_steer_packets(queues[0].descriptor, UInt32(truncatingIfNeeded: count ?? queues.count)) == 0
    }

    /// Closes all queues; the device goes with the last one, unless it is persistent.
    public func close() {
        for queue in queues { Glibc.close(queue.descriptor) }
    }
}
