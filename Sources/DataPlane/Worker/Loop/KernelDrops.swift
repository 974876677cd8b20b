import Devices

/// What the kernel dropped before it came to a worker, as it counts it for the sockets and the device. Looked up by the
/// control side: it costs the packet path nothing.
struct KernelDrops {
    /// Datagrams for the sockets, since they were opened.
    private(set) var socketsDropped: UInt64 = 0
    /// Packets for the device, since the data plane was made.
    private(set) var queueDropped: UInt64 = 0
    /// What was seen of each socket last; the kernel's count wraps at 2^32.
    private var lastOfSockets: [UInt32]
    private var lastOfQueue: UInt64

    /// - Parameter queueDropped: what the device counts before the first packet; a device that was there before has its
    ///   own past.
    init(sockets: Int, queueDropped: UInt64?) {
        lastOfSockets = [UInt32](repeating: 0, count: sockets)
        lastOfQueue = queueDropped ?? 0
    }

    /// Looks at the kernel's counts.
    mutating func look(at sockets: [UnderlaySocket], _ tunnel: TunnelDevice) {
        note(ofSockets: sockets.map { $0.droppedDatagrams() }, ofQueue: tunnel.droppedPackets())
    }

    /// Adds what came since the last look; nil where the kernel does not tell. A device's count that fell is another
    /// device's.
    mutating func note(ofSockets sockets: [UInt32?], ofQueue queue: UInt64?) {
        for (index, count) in sockets.enumerated() {
            guard let count else { continue }
            socketsDropped &+= UInt64(count &- lastOfSockets[index])
            lastOfSockets[index] = count
        }
        guard let queue else { return }
        if queue > lastOfQueue { queueDropped &+= queue &- lastOfQueue }
        lastOfQueue = queue
    }
}
