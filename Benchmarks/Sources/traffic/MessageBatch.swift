import Addresses
import CMessages
import Glibc

/// Memory for one `sendmmsg` or `recvmmsg`: `count` datagrams of up to `slotBytes` each, with a peer address
/// and room for one control message.
struct MessageBatch: ~Copyable {
    static let controlBytes = 64

    let count: Int
    let slotBytes: Int
    let messages: UnsafeMutablePointer<mmsghdr>
    private let slots: UnsafeMutableRawPointer
    private let vectors: UnsafeMutablePointer<iovec>
    private let addresses: UnsafeMutablePointer<sockaddr_in>
    private let controls: UnsafeMutableRawPointer

    init(count: Int, slotBytes: Int) {
        self.count = count
        self.slotBytes = slotBytes
        messages = .allocate(capacity: count)
        vectors = .allocate(capacity: count)
        addresses = .allocate(capacity: count)
        slots = .allocate(byteCount: count * slotBytes, alignment: 64)
        controls = .allocate(byteCount: count * Self.controlBytes, alignment: 16)
        slots.initializeMemory(as: UInt8.self, repeating: 0, count: count * slotBytes)
        for index in 0..<count {
            (vectors + index).initialize(
                to: iovec(iov_base: slots + index * slotBytes, iov_len: slotBytes))
            (addresses + index).initialize(to: sockaddr_in())
            (messages + index).initialize(to: mmsghdr())
            messages[index].msg_hdr.msg_iov = vectors + index
            messages[index].msg_hdr.msg_iovlen = 1
        }
    }

    deinit {
        messages.deallocate()
        vectors.deallocate()
        addresses.deallocate()
        slots.deallocate()
        controls.deallocate()
    }

    /// The bytes of a slot.
    func bytes(_ index: Int) -> UnsafeMutableRawPointer { slots + index * slotBytes }

    /// The peer address of a slot, as the last receive left it.
    func address(_ index: Int) -> sockaddr_in { addresses[index] }

    /// Sends a slot elsewhere than where the socket is connected to.
    func setDestination(_ destination: Endpoint, of index: Int) {
        addresses[index].sin_family = sa_family_t(AF_INET)
        addresses[index].sin_port = destination.port.bigEndian
        addresses[index].sin_addr.s_addr = destination.addressIPv4.networkBytes
        messages[index].msg_hdr.msg_name = UnsafeMutableRawPointer(addresses + index)
        messages[index].msg_hdr.msg_namelen = socklen_t(MemoryLayout<sockaddr_in>.size)
    }

    /// Gives the kernel the whole of every slot again; a receive shortens what it fills.
    func prepareToReceive() {
        for index in 0..<count {
            messages[index].msg_hdr.msg_name = UnsafeMutableRawPointer(addresses + index)
            messages[index].msg_hdr.msg_namelen = socklen_t(MemoryLayout<sockaddr_in>.size)
            messages[index].msg_hdr.msg_control = controls + index * Self.controlBytes
            messages[index].msg_hdr.msg_controllen = Self.controlBytes
        }
    }

    /// The socket's count of dropped datagrams (`SO_RXQ_OVFL`), if the kernel put it beside this datagram.
    func receiveQueueDrops(_ index: Int) -> UInt32? {
        // struct cmsghdr: 8 bytes of length, 4 of level, 4 of type, then the data.
        guard messages[index].msg_hdr.msg_controllen >= 20 else { return nil }
        let control = controls + index * Self.controlBytes
        guard control.load(fromByteOffset: 8, as: Int32.self) == SOL_SOCKET,
            control.load(fromByteOffset: 12, as: Int32.self) == SO_RXQ_OVFL
        else { return nil }
        return control.load(fromByteOffset: 16, as: UInt32.self)
    }
}
