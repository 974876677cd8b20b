/// What one round has done so far.
struct RoundWork {
    /// Packets read from the TUN device.
    var reads = 0
    /// Super-packets forwarded.
    var superPackets = 0
    /// Segments of those.
    var segments = 0
    /// Receives that ended.
    var receives = 0
    /// Whether it received into all buffers that there were, or as often as the kernel does at once.
    var socketMayHoldMore = false
    /// Datagrams received and looked at.
    var datagrams = 0
    /// Of those, small ones (`WorkerLimits.smallDatagramBytes`).
    var smallDatagrams = 0
    /// Whether a packet read from the TUN device was sent before others that wait.
    var hasPrioritized = false

    /// Whether that is so much that more will follow soon.
    @inline(__always)
    var isLoad: Bool { superPackets > 0 || reads &+ datagrams > WorkerLimits.sparseRoundPackets }

    /// Whether it is load of small packets, where what a switch costs is most of what a packet costs. What the device
    /// gives whole counts as small: larger ones mostly come as super-packets.
    @inline(__always)
    var isLoadOfSmallPackets: Bool {
        superPackets == 0 && reads &+ smallDatagrams > WorkerLimits.sparseRoundPackets
    }
}
