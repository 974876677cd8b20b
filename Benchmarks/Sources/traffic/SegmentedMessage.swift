import CMessages
import Glibc

/// Memory for one `sendmsg` of several pieces, with `UDP_SEGMENT` where they are to leave as several datagrams.
struct SegmentedMessage: ~Copyable {
    /// `UDP_MAX_SEGMENTS` since Linux 6.9 (include/linux/udp.h).
    static let segmentLimit = 128
    private static let piecesPerSegment = 2
    /// CMSG_SPACE(2): a `cmsghdr` of 16 bytes, the 16-bit size, up to 8 bytes.
    private static let controlBytes = 24

    private let pieces: UnsafeMutablePointer<iovec>
    private let control: UnsafeMutableRawPointer
    private var pieceCount = 0
    private(set) var byteCount = 0

    init() {
        pieces = .allocate(capacity: Self.segmentLimit * Self.piecesPerSegment)
        control = .allocate(byteCount: Self.controlBytes, alignment: 8)
        // struct cmsghdr: 8 bytes of length, 4 of level, 4 of type, then the data.
        control.initializeMemory(as: UInt8.self, repeating: 0, count: Self.controlBytes)
        control.storeBytes(of: 18, as: UInt64.self)
        control.storeBytes(of: Int32(IPPROTO_UDP), toByteOffset: 8, as: Int32.self)
        control.storeBytes(of: Int32(UDP_SEGMENT), toByteOffset: 12, as: Int32.self)
    }

    deinit {
        pieces.deallocate()
        control.deallocate()
    }

    mutating func removeAll() {
        pieceCount = 0
        byteCount = 0
    }

    /// Adds bytes that stay where they are until they are sent.
    mutating func append(_ bytes: UnsafeMutableRawPointer, count: Int) {
        (pieces + pieceCount).initialize(to: iovec(iov_base: bytes, iov_len: count))
        pieceCount += 1
        byteCount += count
    }

    /// Sends it without waiting. Returns 0 or errno.
    ///
    /// - Parameters:
    ///   - segmentBytes: bytes of each datagram but the last; 0 for one datagram.
    ///   - destination: for a socket that is not connected.
    func send(on descriptor: Int32, segmentBytes: Int = 0, to destination: SocketAddress? = nil) -> Int32 {
        var message = msghdr()
        message.msg_iov = pieces
        message.msg_iovlen = pieceCount
        if segmentBytes > 0 {
            control.storeBytes(of: UInt16(segmentBytes), toByteOffset: 16, as: UInt16.self)
            message.msg_control = control
            message.msg_controllen = Self.controlBytes
        }
        guard let destination else { return Self.send(&message, on: descriptor) }
        return destination.withPointer { name, length in
            message.msg_name = UnsafeMutableRawPointer(mutating: name)
            message.msg_namelen = length
            return Self.send(&message, on: descriptor)
        }
    }

    private static func send(_ message: inout msghdr, on descriptor: Int32) -> Int32 {
        sendmsg(descriptor, &message, Int32(MSG_DONTWAIT)) < 0 ? errno : 0
    }
}
