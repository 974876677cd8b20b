import Devices

/// What the kernel dropped before it came to a worker, as it counts it for the sockets and the device. Looked up by the
/// control side: it costs the packet path nothing.
public struct KernelDrops: Sendable {
    /// What the kernel's counts were at the last look: each socket's, in the workers' order, and the device's.
    public struct Seen: Sendable, Equatable {
        /// Of each socket; the kernel's count wraps at 2^32.
        public var sockets: [UInt32] = []
        /// Of the device; nil where it was not looked at.
        public var queue: UInt64?

        /// Nothing was looked at.
        public init() {}
    }

    /// Datagrams for the sockets, since they were opened.
    private(set) var socketsDropped: UInt64 = 0
    /// Packets for the device, since the data plane was made.
    private(set) var queueDropped: UInt64 = 0
    /// What was seen last.
    private(set) var seen = Seen()

    /// - Parameter queueDropped: what the device counts before the first packet; a device that was there before has its
    ///   own past.
    init(sockets: Int, queueDropped: UInt64?) {
        seen.sockets = [UInt32](repeating: 0, count: sockets)
        seen.queue = queueDropped ?? 0
    }

    /// Goes on with the counts of channels.
    ///
    /// - Parameter seen: what whoever had them before saw last; of others the past is not this one's.
    init(_ channels: WorkerChannels, seen before: Seen) {
        let sockets = channels.sockets.receivers
        seen.sockets = sockets.indices.map { index in
            before.sockets.count == sockets.count
                ? before.sockets[index] : sockets[index].droppedDatagrams() ?? 0
        }
        seen.queue = before.queue ?? channels.tunnel.droppedPackets() ?? 0
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
            socketsDropped &+= UInt64(count &- seen.sockets[index])
            seen.sockets[index] = count
        }
        guard let queue else { return }
        let last = seen.queue ?? 0
        if queue > last { queueDropped &+= queue &- last }
        seen.queue = queue
    }
}
