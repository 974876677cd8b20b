/// The limits of super-packets, with their arithmetic. A super-packet is what the kernel calls a GSO packet where it
/// is to be segmented and a GRO packet where it was merged: one IP packet that stands for many, with a virtio-net
/// header that says how to cut it.
public enum SuperPacketLimits {
    /// Bytes of payload of the largest UDP datagram over IPv4: 65,535 - 20 (IPv4) - 8 (UDP). The kernel holds a
    /// whole `UDP_SEGMENT` send to it.
    public static let sendBytes = 65_507
    /// Segments of one `UDP_SEGMENT` send: `UDP_MAX_SEGMENTS` in include/linux/udp.h, 128 since Linux 6.9, 64
    /// before.
    public static let sendSegments = 128
    /// Segments of a UDP super-packet that a pod may ask for: `UDP_MAX_SEGMENTS` (include/linux/udp.h), which
    /// `udp_send_skb` (net/ipv4/udp.c) and, since Linux 6.9, `virtio_net_hdr_to_skb` (include/linux/virtio_net.h)
    /// hold to.
    public static let datagramSegments = 128
    /// Segments of a TCP super-packet that a pod may ask for: as many as 65,535 bytes make at the smallest segment
    /// size that a TCP accepts, `TCP_MIN_MSS` (88, include/net/tcp.h). 65,535 / 88 = 744. A packet socket with
    /// `PACKET_VNET_HDR` would otherwise ask for 65,495 of one byte each, some 100 ms of work for one packet.
    public static let streamSegments = 65_535 / 88
    /// Bytes of a merged packet: what the total length of an IPv4 header can say.
    public static let mergedBytes = 65_535
    /// Packets merged into one: as many as one receive with `UDP_GRO` can hold, so that a full one needs no
    /// second write. With the virtio-net header that is 129 vectors, of 1,024 that a write may have (`UIO_MAXIOV`).
    public static let mergedPackets = 128
    /// Slots of a coalescer, which names them in 16 bits.
    public static let slots = 4_096
}
