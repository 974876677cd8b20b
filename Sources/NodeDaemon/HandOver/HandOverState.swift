import Addresses
import Counters
import Devices
import Forwarding
import FoundationEssentials
import Worker

/// What a data plane is told to the one that goes on with it, in another process: JSON, with sorted keys. A release adds
/// members, and leaves out what another does not tell; it never gives a member another meaning (ADR 92).
struct HandOverState: Encodable, Equatable {
    /// The version of this form: 1. A later one is read all the same.
    var version = 1
    /// Who wrote it.
    var build = Version.text
    var tunnel: Tunnel
    var underlay: Place
    /// The engine that was asked for, as the flag has it.
    var engine: String?
    /// Whether inner sources outside the peer's subnet are let in.
    var acceptsAnySource = false
    /// This node's own subnets, and the largest inner packet in bytes.
    var subnet: String?
    var subnetIPv6: String?
    var mtu: Int
    var peers: [Peer] = []
    /// What was carried to and from all other peers: as `Peer.counts`.
    var otherCounts: [UInt64]?
    /// Counters by name, and histograms: the buckets, then the sum.
    var counters: [String: UInt64]?
    var histograms: [String: [UInt64]]?
    /// What the kernel's counts of drops were: of each worker's socket, and of the device.
    var socketDrops: [UInt32]?
    var queueDrops: UInt64?
    /// Outer MTUs, in bytes, of the paths to peers that are narrower than the tunnel, by subnet.
    var pathMTUs: [String: Int]?
    /// Whose node this is: what another node's daemon on the same host has another one of.
    var node: Node

    struct Tunnel: Encodable, Equatable {
        var name: String
        /// Nil in a network of IPv6 alone. A release that has IPv4 alone can't read that, and does not take over.
        var address: String?
        var addressIPv6: String?
        /// `TUN_F_*` bits that the device was opened with.
        var offloads: UInt32
        var workers: Int
    }

    struct Place: Encodable, Equatable {
        var address: String
        var port: UInt16
    }

    struct Peer: Encodable, Equatable {
        var subnet: String?
        var subnetIPv6: String?
        var address: String
        var port: UInt16
        var takesBursts = true
        /// Packets and bytes sent, packets and bytes received, when the last came (nanoseconds of the monotonic clock).
        var counts: [UInt64]?
    }

    struct Node: Encodable, Equatable {
        var subnetFile: String
        var stateDirectory: String
        /// This node's identity, as its state directory has it; nil where the cluster has it.
        var identity: String?
    }

    /// As bytes.
    var bytes: [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return (try? encoder.encode(self)).map { Array($0) } ?? []
    }

    /// What is to be handed over of a data plane.
    init(
        of dataPlane: DataPlane, _ channels: WorkerChannels, routes: ForwardingRoutes, node: Node,
        pathMTUs: [IPPrefix: Int]
    ) {
        let configuration = dataPlane.configuration
        let totals = dataPlane.totals()
        tunnel = Tunnel(
            name: channels.tunnel.name, address: configuration.tunnelAddress.map { "\($0)" },
            addressIPv6: configuration.tunnelAddressIPv6.map { "\($0)" },
            offloads: channels.tunnel.offloads.rawValue, workers: channels.workerCount)
        underlay = Place(configuration.underlay)
        engine = configuration.tuning.engine.rawValue
        acceptsAnySource = configuration.acceptsAnySource
        subnet = routes.localIPv4.map { "\($0)" }
        subnetIPv6 = routes.localIPv6.map { "\($0)" }
        mtu = routes.mtu
        peers = routes.peers.map { Peer($0, totals.peers.peers[$0.subnets]) }
        otherCounts = totals.peers.others.numbers
        counters = totals.counters.named
        histograms = totals.counters.namedHistograms
        socketDrops = totals.kernel.sockets
        queueDrops = totals.kernel.queue
        self.pathMTUs = Dictionary(uniqueKeysWithValues: pathMTUs.map { ("\($0.key)", $0.value) })
        self.node = node
    }

    /// What the one that goes on is made for; nil where an address can't be read.
    ///
    /// - Parameter tuning: its own; the number of workers is that of the former one.
    func configuration(tuning: Tuning) -> DataPlaneConfiguration? {
        let address = tunnel.address.flatMap { IPv4Address($0) }
        let addressIPv6 = tunnel.addressIPv6.flatMap { IPv6Address($0) }
        guard let underlay = underlay.endpoint, tunnel.workers > 0, address != nil || addressIPv6 != nil,
            (address == nil) == (tunnel.address == nil)
        else { return nil }
        var tuning = tuning
        tuning.workers = .fixed(tunnel.workers)
        return DataPlaneConfiguration(
            tunnelName: tunnel.name, underlay: underlay, mtu: mtu, tunnelAddress: address,
            tunnelAddressIPv6: addressIPv6,
            acceptsAnySource: acceptsAnySource, tuning: tuning)
    }

    /// What it forwards by at first. A peer that can't be read is none.
    var routes: ForwardingRoutes {
        ForwardingRoutes(
            localIPv4: subnet.flatMap { IPv4Prefix($0) }, localIPv6: subnetIPv6.flatMap { IPv6Prefix($0) },
            mtu: mtu, peers: peers.compactMap(\.forwarding))
    }

    /// What it goes on counting from.
    var totals: DataPlaneTotals {
        var totals = DataPlaneTotals(
            counters: CounterTotals(named: counters ?? [:], histograms: histograms ?? [:]))
        for peer in peers {
            guard let subnets = peer.forwarding?.subnets, let counts = peer.counts else { continue }
            totals.peers.peers[subnets] = PeerCounts(numbers: counts)
        }
        if let otherCounts { totals.peers.others = PeerCounts(numbers: otherCounts) }
        totals.kernel.sockets = socketDrops ?? []
        totals.kernel.queue = queueDrops
        return totals
    }
}

extension HandOverState.Place {
    init(_ endpoint: Endpoint) { self.init(address: "\(endpoint.address)", port: endpoint.port) }

    var endpoint: Endpoint? { IPAddress(address).map { Endpoint(address: $0, port: port) } }
}

extension HandOverState.Peer {
    init(_ peer: ForwardingPeer, _ counts: PeerCounts?) {
        self.init(
            subnet: peer.ipv4.map { "\($0)" }, subnetIPv6: peer.ipv6.map { "\($0)" },
            address: "\(peer.endpoint.address)", port: peer.endpoint.port, takesBursts: peer.takesBursts,
            counts: counts?.numbers)
    }

    var forwarding: ForwardingPeer? {
        guard let address = IPAddress(address) else { return nil }
        return ForwardingPeer(
            ipv4: subnet.flatMap { IPv4Prefix($0) }, ipv6: subnetIPv6.flatMap { IPv6Prefix($0) },
            endpoint: Endpoint(address: address, port: port), takesBursts: takesBursts)
    }
}

extension PeerCounts {
    fileprivate var numbers: [UInt64] {
        [packetsSent, bytesSent, packetsReceived, bytesReceived, lastReceivedNanoseconds]
    }

    fileprivate init(numbers: [UInt64]) {
        self.init()
        guard numbers.count >= 5 else { return }
        (packetsSent, bytesSent) = (numbers[0], numbers[1])
        (packetsReceived, bytesReceived) = (numbers[2], numbers[3])
        lastReceivedNanoseconds = numbers[4]
    }
}
