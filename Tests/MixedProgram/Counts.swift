import Counters
import Kit
import NetworkNamespaces
import Telemetry

/// What a node counted at one moment.
struct NodeCounts {
    var counters: [Counter: Int] = [:]
    /// What the kernel gave to the TUN device, and took from it.
    var devicePackets = 0
    var deviceReceived = 0
    /// What the underlay's socket had no room for, as the kernel counts it.
    var socketDrops = 0

    /// What stays as it is once no packet is on its way.
    private static let moving: [Counter] = [
        .tunnelReads, .tunnelBytes, .tunnelWrites, .packetsSent, .packetsDelivered,
    ]

    /// Whether nothing moved from one look to another.
    func isAtRest(since other: NodeCounts) -> Bool {
        Self.moving.allSatisfy { counters[$0] == other.counters[$0] }
            && devicePackets == other.devicePackets && deviceReceived == other.deviceReceived
    }

    static func - (after: NodeCounts, before: NodeCounts) -> NodeCounts {
        var difference = after
        for (counter, value) in before.counters { difference.counters[counter, default: 0] -= value }
        difference.devicePackets -= before.devicePackets
        difference.deviceReceived -= before.deviceReceived
        difference.socketDrops -= before.socketDrops
        return difference
    }

    /// The sum of some counters.
    func sum(_ counters: some Sequence<Counter>) -> Int {
        counters.reduce(0) { $0 + (self.counters[$1] ?? 0) }
    }

    subscript(counter: Counter) -> Int { counters[counter] ?? 0 }
}

/// What becomes of a packet that a counter of drops counts.
enum Fate: CaseIterable {
    /// From a peer, and not as a packet of a peer is to be: it was sent so.
    case malformed
    /// From a pod, and not as a packet to a peer is to be.
    case refused
    /// Was to be sent, and there was no room or no way for it.
    case unsent
    /// Was to be given to a pod, and the device took it not.
    case unwritten
    /// Was larger than a buffer.
    case truncated
    /// Dropped by the kernel before twilld had it, which counts it among its own drops, too.
    case before

    /// Nil for what counts no drop.
    init?(_ counter: Counter) {
        switch counter {
        case .dropInboundTooShort, .dropInboundVersion, .dropInboundHeaderLength, .dropInboundTotalLength,
            .dropInboundHeaderChecksum, .dropInboundSource, .dropInboundDestination, .dropInboundTimeToLive,
            .dropInboundTooLarge, .dropInboundUnknownPeer:
            self = .malformed
        case .dropOutboundMalformedTooShort, .dropOutboundMalformedVersion,
            .dropOutboundMalformedHeaderLength,
            .dropOutboundMalformedTotalLength, .dropOutboundSuperPacketTruncated,
            .dropOutboundSuperPacketVersion, .dropOutboundSuperPacketLength,
            .dropOutboundSuperPacketTransport,
            .dropOutboundSuperPacketFragment, .dropOutboundSuperPacketSegmentation,
            .dropOutboundSuperPacketSegmentSize, .dropOutboundSuperPacketSegmentCount,
            .dropOutboundSuperPacketFlags, .dropOutboundSuperPacketChecksumPlace, .dropOutboundNoRoute,
            .dropOutboundTimeToLive, .dropOutboundSmallSegments, .outboundIgnored:
            self = .refused
        case .dropOutboundTooLarge, .dropOutboundNoBuffer, .dropOutboundStandingQueue,
            .dropOutboundUnderlayFull, .dropOutboundUnreachable, .dropOutboundError, .dropKernelPathMemory:
            self = .unsent
        case .dropInboundTunnelDown, .dropInboundTunnelFull, .dropInboundError: self = .unwritten
        case .dropInboundTruncated: self = .truncated
        case .dropOutboundQueueFull, .dropInboundSocketFull: self = .before
        default:
            precondition(!counter.isDrop, "\(counter) is a drop of no fate that test-mixed knows")
            return nil
        }
    }

    /// All counters of a fate.
    var counters: [Counter] { Counter.allCases.filter { Fate($0) == self } }
}

/// What all nodes counted, once nothing was on its way.
struct RestingCounts {
    /// Of each node, the first at index 0.
    var nodes: [NodeCounts]
    /// How many datagrams the stranger sent to each node in order to wake its workers.
    var nudges: Int
}

extension Mixed {
    private func counts(_ number: Int) async throws -> NodeCounts {
        let daemon = daemons[number - 1]
        let status = try await daemon.wait(for: "node \(number)'s counters", seconds: 10) {
            !$0.counters.isEmpty
        }
        var counts = NodeCounts()
        for counter in Counter.allCases { counts.counters[counter] = Int(status.value(of: counter)) }
        let device = try await lab[number].interface("flannel0")
        counts.devicePackets = device?.transmittedPackets ?? 0
        counts.deviceReceived = device?.receivedPackets ?? 0
        counts.socketDrops = try await lab[number].receiveBufferErrors()
        return counts
    }

    private func allCounts() async throws -> [NodeCounts] {
        var all: [NodeCounts] = []
        for node in lab.nodes { all.append(try await counts(node.number)) }
        return all
    }

    /// A worker that sleeps counts its last sends when it wakes: a stranger's datagram wakes it, and is dropped.
    private func nudge() async throws {
        let commands = lab.nodes.map { "printf x >/dev/udp/\($0.address)/8285" }.joined(separator: "; ")
        try await stranger.run("bash -c '\(commands)'")
    }

    /// Waits until the network is at rest.
    func rest() async throws -> RestingCounts {
        var nudges = 0
        let nodes = try await until("the network to be at rest", seconds: 60) { () -> [NodeCounts]? in
            try await nudge()
            try await Task.sleep(for: .milliseconds(100))
            let first = try await allCounts()
            try await Task.sleep(for: .milliseconds(300))
            // Once more: what was sent between the first nudge and its worker's sleep is not counted yet.
            try await nudge()
            nudges += 2
            try await Task.sleep(for: .milliseconds(100))
            let second = try await allCounts()
            return zip(first, second).allSatisfy { $1.isAtRest(since: $0) } ? first : nil
        }
        // The second nudge of the rest before comes after its counters were read, that of this one is not in them.
        return RestingCounts(nodes: nodes, nudges: nudges)
    }

    /// Whatever the kernel drops between the pods outside of twilld, by its place.
    func kernelDrops() async throws -> [String: Int] {
        var all: [String: Int] = [:]
        for (node, pod) in zip(lab.nodes, pods) {
            for (place, count) in try await node.kernelDrops() { all["node\(node.number):\(place)"] = count }
            for (place, count) in try await pod.kernelDrops() {
                all["node\(node.number)-pod:\(place)"] = count
            }
        }
        return all
    }
}
