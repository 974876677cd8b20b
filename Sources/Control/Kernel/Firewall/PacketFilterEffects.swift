import Addresses
import Health
import Netlink
import Reconciler
import Synchronization

/// A way that packets must be able to go for pods on different nodes to reach each other.
enum OverlayWay: CaseIterable, Hashable {
    /// From pods here to other nodes' pods, as they are forwarded into the tunnel device.
    case podsOut
    /// From other nodes' pods to pods here.
    case podsIn
    /// Tunnel datagrams from other nodes to this one.
    case tunnelIn
    /// Tunnel datagrams from this node to others.
    case tunnelOut

    /// The hooks that packets pass, in order (linux/netfilter.h, linux/netfilter_netdev.h).
    var hooks: [String] {
        switch self {
        // Pods mostly are behind a bridge, whose own hooks have the packet before or after.
        case .podsOut:
            [
                "bridge prerouting", "bridge input", "ingress", "prerouting", "forward", "postrouting",
                "egress",
            ]
        case .podsIn:
            [
                "ingress", "prerouting", "forward", "postrouting", "egress", "bridge output",
                "bridge postrouting",
            ]
        case .tunnelIn: ["ingress", "prerouting", "input"]
        case .tunnelOut: ["output", "postrouting", "egress"]
        }
    }
}

/// Looks at what all rules of this machine, whoever set them, do with packets between pods: rules that drop them are
/// told as problems, by table, chain and rule. Shared by the items that tell it; its rule sets are read on the resync
/// alone.
public final class PacketFilterEffects: Sendable {
    /// Another node, as far as rules may tell it from others, by one family of its subnet.
    public struct Peer: Sendable, Hashable {
        /// Its pods' subnet.
        public var subnet: IPPrefix
        /// Where its tunnel datagrams come from; of either family.
        public var address: IPAddress

        /// Makes a peer.
        public init(subnet: IPPrefix, address: IPAddress) {
            self.subnet = subnet
            self.address = address
        }
    }

    /// What of the node rules ask for, by one family of the overlay.
    public struct Surroundings: Sendable, Hashable {
        /// The overlay.
        public var network: IPPrefix
        /// This node's subnet.
        public var subnet: IPPrefix
        /// The tunnel device's name.
        public var tunnel: String
        /// The underlay's interface.
        public var underlay: String
        /// This node's address there; of either family.
        public var address: IPAddress
        /// The tunnel's UDP port here; 0 where pods' packets go over the underlay as they are.
        public var port: UInt16

        /// Makes surroundings.
        public init(
            network: IPPrefix, subnet: IPPrefix, tunnel: String, underlay: String, address: IPAddress,
            port: UInt16
        ) {
            self.network = network
            self.subnet = subnet
            self.tunnel = tunnel
            self.underlay = underlay
            self.address = address
            self.port = port
        }
    }

    /// How many peers of a family are held against the rules; they rarely differ. With 64 of them a look makes 768 walks.
    private static let peerLimit = 64

    let reader = RuleSetReader()
    private let peers = Mutex<[Peer]>([])

    /// Makes a look-out without peers.
    public init() {}

    /// Says which nodes there are.
    public func update(peers: some Sequence<Peer>) {
        var first: [Peer] = []
        for family in AddressFamily.allCases {
            first += peers.lazy.filter { $0.subnet.addressFamily == family }.prefix(
                PacketFilterEffects.peerLimit)
        }
        self.peers.withLock { $0 = first }
    }

    /// The items that tell what rules and settings do: to pods' packets, and to the tunnel's. What both families' packets go
    /// by has one name.
    ///
    /// Settings of interfaces are looked at for IPv4 alone: IPv6 forwards by the machine's setting, whatever an interface's
    /// says (`ip6_forward` of net/ipv6/ip6_output.c), and has no `rp_filter`.
    public func desiredItems(in surroundings: Surroundings) -> [any DesiredItem] {
        let tunnel: [any DesiredItem] =
            surroundings.port == 0 ? [] : [TunnelEffect(effects: self, surroundings: surroundings)]
        let rules = [ForwardingEffect(effects: self, surroundings: surroundings)] + tunnel
        guard surroundings.network.addressFamily == .ipv4 else { return rules }
        return rules + [
            PodInterfaceForwards(surroundings: surroundings),
            UnderlayForwards(interfaceName: surroundings.underlay, carriesPods: surroundings.port == 0),
            UnderlayReversePath(interfaceName: surroundings.underlay, effects: self),
        ]
    }

    /// The IPv4 addresses of the nodes.
    var peerAddresses: [IPv4Address] { peers.withLock { $0.compactMap(\.address.v4) } }

    /// The rules as they are.
    ///
    /// - Throws: what keeps them from being judged, for the operator.
    fileprivate func ruleSet(_ family: AddressFamily) throws -> RuleSet {
        do {
            return try reader.current(family, mayBeOld: true)
        } catch {
            throw ItemProblem(
                Problem(
                    .degraded,
                    "this machine's packet filter rules cannot be read, so that it is not known whether they drop pods' packets: \(error)",
                    remedy: "see whether pods on different nodes reach each other"))
        }
    }

    /// What rules do to the packets of one way.
    fileprivate func cut(
        _ way: OverlayWay, by ruleSet: RuleSet, _ surroundings: Surroundings, bridge: String?
    ) -> PacketCut? {
        let isOfPods = way == .podsOut || way == .podsIn
        let known = peers.withLock { peers in
            peers.filter { peer in
                peer.subnet.addressFamily == surroundings.network.addressFamily
                    && (isOfPods || peer.address.addressFamily == surroundings.address.addressFamily)
            }
        }
        let peers: [Peer?] = known.isEmpty ? [nil] : known
        var walk = PacketWalk(ruleSet)
        var cuts: [PacketDrop: PacketCut] = [:]
        for peer in peers {
            for packet in packets(way, peer, surroundings, bridge: bridge) {
                guard let drop = walk.drop(of: packet, at: way.hooks) else { continue }
                var cut = cuts[drop] ?? PacketCut(way: way, drop: drop)
                cut.transports.insert(packet.transport)
                cut.hitsEstablished = cut.hitsEstablished || packet.isEstablished
                cut.hitsNew = cut.hitsNew || !packet.isEstablished
                if let peer { cut.peers.insert(peer) }
                cuts[drop] = cut
            }
        }
        // Of several rules the one that hits most is told; with its removal the next one is.
        guard var worst = cuts.values.max(by: { $0.weight < $1.weight }) else { return nil }
        if worst.peers.count == known.count { worst.peers = [] }
        return worst
    }

    private func packets(_ way: OverlayWay, _ peer: Peer?, _ here: Surroundings, bridge: String?)
        -> [SamplePacket]
    {
        let own = IPPrefix(here.address, length: here.address.bitWidth)
        let other =
            peer.map { IPPrefix($0.address, length: $0.address.bitWidth) }
            ?? IPPrefix(here.address, length: 0)
        var packets: [SamplePacket] = []
        for isEstablished in [false, true] {
            switch way {
            case .podsOut, .podsIn:
                let far = peer?.subnet ?? here.network
                for transport in SamplePacket.TransportProtocol.allCases {
                    packets.append(
                        SamplePacket(
                            source: way == .podsOut ? here.subnet : far,
                            destination: way == .podsOut ? far : here.subnet,
                            inInterface: way == .podsOut ? bridge : here.tunnel,
                            outInterface: way == .podsOut ? here.tunnel : bridge, transport: transport,
                            isEstablished: isEstablished))
                }
            case .tunnelIn:
                packets.append(
                    SamplePacket(
                        source: other, destination: own, inInterface: here.underlay, transport: .udp,
                        destinationPort: here.port, isEstablished: isEstablished, isForThisMachine: true))
            case .tunnelOut:
                packets.append(
                    SamplePacket(
                        source: own, destination: other, outInterface: here.underlay, transport: .udp,
                        sourcePort: here.port, isEstablished: isEstablished, isFromThisMachine: true))
            }
        }
        return packets
    }
}

/// What one rule cuts of a way.
struct PacketCut {
    let way: OverlayWay
    let drop: PacketDrop
    var transports: Set<SamplePacket.TransportProtocol> = []
    var hitsEstablished = false
    var hitsNew = false
    /// The nodes whose packets it hits; empty: all.
    var peers: Set<PacketFilterEffects.Peer> = []

    init(way: OverlayWay, drop: PacketDrop) {
        self.way = way
        self.drop = drop
    }

    /// By how much it is worse than others.
    fileprivate var weight: Int {
        (drop.isCertain ? 1000 : 0) &+ transports.count &* 100 &+ (hitsEstablished ? 50 : 0)
            &+ min(peers.count, 49)
    }

    /// Whether all packets of a kind of transport that matters are hit, of all nodes, for certain.
    private var isWhole: Bool {
        let all = way == .podsOut || way == .podsIn ? SamplePacket.TransportProtocol.allCases.count : 1
        return drop.isCertain && peers.isEmpty && transports.count == all
    }

    /// Whether nothing of the way is left.
    var isTotal: Bool { isWhole && hitsNew && hitsEstablished }

    /// Whether nothing of the way is left but the answers to what the other way began.
    var isOfBeginnings: Bool { isWhole && hitsNew }
}

/// The rules let pods' packets pass, into the tunnel and out of it.
private struct ForwardingEffect: DesiredItem {
    let effects: PacketFilterEffects
    let surroundings: PacketFilterEffects.Surroundings

    private var family: AddressFamily { surroundings.network.addressFamily }

    var name: String { "rules for pods' packets\(family.suffix)" }
    var component: Component { Component(.firewall, "forward\(family.suffix)") }
    var isEssential: Bool { false }
    var needsResync: Bool { true }

    func deviation(in state: NetworkState) throws -> String? {
        let bridge = state.podInterface(subnet: surroundings.subnet, tunnel: surroundings.tunnel)?.name
        let ruleSet = try effects.ruleSet(family)
        let out = effects.cut(.podsOut, by: ruleSet, surroundings, bridge: bridge)
        let into = effects.cut(.podsIn, by: ruleSet, surroundings, bridge: bridge)
        guard let first = out ?? into else { return nil }
        throw ItemProblem(PacketCutWords(surroundings).problem(out: out, into: into, first: first))
    }
}

/// The rules let tunnel datagrams pass, both ways.
private struct TunnelEffect: DesiredItem {
    let effects: PacketFilterEffects
    let surroundings: PacketFilterEffects.Surroundings

    /// Of the underlay, which may be another than the overlay's.
    private var family: AddressFamily { surroundings.address.addressFamily }

    var name: String { "rules for tunnel datagrams\(family.suffix)" }
    var component: Component { Component(.firewall, "tunnel\(family.suffix)") }
    var isEssential: Bool { false }
    var needsResync: Bool { true }

    func deviation(in state: NetworkState) throws -> String? {
        let ruleSet = try effects.ruleSet(family)
        let out = effects.cut(.tunnelOut, by: ruleSet, surroundings, bridge: nil)
        let into = effects.cut(.tunnelIn, by: ruleSet, surroundings, bridge: nil)
        guard let first = out ?? into else { return nil }
        throw ItemProblem(PacketCutWords(surroundings).problem(out: out, into: into, first: first))
    }
}

extension NetworkState {
    /// The interface that pods here are behind: the one that their subnet is routed to, or that has an address of it;
    /// nil where there is none, or each pod has its own.
    func podInterface(subnet: IPPrefix, tunnel: String) -> Link? {
        // IPv6 has its blackhole by the loopback interface.
        let route = routes.first {
            $0.destination == subnet && $0.interfaceIndex != nil && $0.kind == .unicast
        }
        let index =
            route?.interfaceIndex
            ?? addresses.first {
                $0.prefixLength < $0.address.bitWidth && subnet.contains($0.address)
            }?.interfaceIndex
        guard let link = index.flatMap({ link(index: $0) }), link.name != tunnel else { return nil }
        return link
    }
}
