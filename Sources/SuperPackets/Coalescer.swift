public import CLinux

/// One write to the TUN: a virtio-net header, then a packet or super-packet, scattered.
@frozen
public struct CoalescedPacket {
    /// The vectors of the write, the virtio-net header first. They belong to the coalescer, what they point at
    /// to the coalescer (first vector) and to the receive buffers (the others); valid until `reset`.
    public let vectors: UnsafeMutablePointer<iovec>
    /// The number of vectors: 2 to 129.
    public let vectorCount: Int
    /// Bytes of the write, the virtio-net header's 10 included.
    public let byteCount: Int
    /// The number of packets that arrived and are in it.
    public let packetCount: Int
}

/// Merges packets of one flow that arrived one after the other into super-packets for the TUN.
public struct Coalescer: ~Copyable {
    /// What became of a packet.
    public enum Addition: UInt8, Sendable {
        /// It begins a slot.
        case opened
        /// It is in the slot of the packets before it.
        case joined
        /// All slots are taken and it joins none: `close`, write, `reset`, and add it again.
        case full
    }

    /// The number of slots in use.
    public var slotCount: Int { fatalError("skeleton") }

    /// Allocates all memory that the coalescer will use.
    public init(
        slotLimit: Int, mergesTCP: Bool, mergesUDP: Bool, maximumSuperPacketBytes: Int = 65_535
    ) { fatalError("skeleton") }

    /// Takes one IP packet of `length` bytes in order of arrival. The bytes stay where they are, and belong to the
    /// coalescer until `reset`.
    public mutating func add(_ packet: UnsafeMutableRawPointer, length: Int) -> Addition { fatalError("skeleton") }

    /// Makes all slots ready to be written: merged ones get their headers.
    public mutating func close() { fatalError("skeleton") }

    /// The write of slot `index`, below `slotCount`, after `close`. Slots are written in order.
    public func slot(_ index: Int) -> CoalescedPacket { fatalError("skeleton") }

    /// Empties the coalescer; the receive buffers are the caller's again.
    public mutating func reset() { fatalError("skeleton") }
}
