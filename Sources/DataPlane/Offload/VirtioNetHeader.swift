public import CLinux

/// What the legacy virtio-net header (virtio 1.2, section 5.1.6; `struct virtio_net_hdr`, 10 bytes, native byte
/// order) says of a packet that crosses the TUN.
extension virtio_net_hdr {
    /// Bytes of the header.
    public static let byteCount = 10

    /// The checksum is left to the receiver of the header: `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
    @usableFromInline static let needsChecksum: UInt8 = 1
    /// `VIRTIO_NET_HDR_GSO_ECN`: a flag in `gso_type`, the first segment carries CWR.
    static let segmentsECN: UInt8 = 0x80
    /// `VIRTIO_NET_HDR_GSO_TCPV4`.
    static let segmentsTCPOverIPv4: UInt8 = 1
    /// `VIRTIO_NET_HDR_GSO_TCPV6`.
    static let segmentsTCPOverIPv6: UInt8 = 4
    /// `VIRTIO_NET_HDR_GSO_UDP_L4`, either IP version; Debian 12's header lacks it.
    static let segmentsUDP: UInt8 = 5

    /// Reads a header that stands at `bytes`, at any alignment.
    @inlinable @inline(__always)
    public init(bytes: UnsafeRawPointer) { self = bytes.loadUnaligned(as: virtio_net_hdr.self) }
}
