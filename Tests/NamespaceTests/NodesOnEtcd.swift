import Addresses
import Counters
import Glibc
import Kit
import NetworkNamespaces
import Telemetry
import Testing

/// Nodes of which the first two have a daemon on a real etcd, and a pod each; all know each other.
final class NodesOnEtcd {
    let lab: Lab
    let etcd: LabEtcd
    /// Those of the first two nodes.
    private(set) var daemons: [LabDaemon] = []
    /// Those of the first two nodes.
    private(set) var pods: [LabPod] = []
    /// The first two nodes' subnets, as a lease has them: `100.96.28.0/24`.
    private(set) var subnets: [String] = []

    /// The subnet of a node that no daemon runs on: as its lease's key has it, and an address in it.
    static let foreignKey = "100.96.253.0-24"
    static let foreignPod = IPv4Address(bits: 0x6460_FD02)

    init(
        nodes: Int = 2, flags: String = "", config: String = Lab.configuration,
        underlay: Lab.Underlay = .offloading, isAlone: Bool = false
    ) async throws {
        lab = try await Lab(nodes: nodes, config: nil, underlay: underlay, isAlone: isAlone)
        etcd = try await lab.startEtcd(config: config)
        for node in lab.nodes.prefix(2) { daemons.append(try await start(on: node, flags)) }
        for (node, daemon) in zip(lab.nodes, daemons) {
            let status = try await daemon.wait(for: "ready with its peer", seconds: 60) {
                $0.isReady && $0.peers.count == 1
            }
            subnets.append(try #require(status.lease?.subnet))
            pods.append(try await node.addPod(in: subnets[subnets.count - 1]))
        }
        // A veth without GRO queues a packet on the CPU that sent it: a sender that moves to another CPU overtakes
        // itself. With GRO it has one queue, and what is reordered is twilld's doing.
        for (node, pod) in zip(lab.nodes, pods) {
            try await node.run("ethtool -K pod2 gro on")
            try await pod.run("ethtool -K eth0 gro on")
        }
    }

    /// Starts a daemon on the etcd.
    func start(on node: LabNode, _ flags: String = "") async throws -> LabDaemon {
        try await node.start("--etcd-endpoints=\(etcd.endpoint) \(flags)")
    }

    /// A subnet as its lease's key has it: `100.96.28.0-24`.
    func key(_ node: Int) -> String { subnets[node - 1].replacing("/", with: "-") }

    /// Waits until the first pod has an answer from the second.
    func podsReachEachOther() async throws { try await pods[0].reaches(pods[1].address) }

    /// Waits until what the first pod sends to the foreign node's pods comes to the foreign node.
    ///
    /// - Parameter socket: of the foreign node, on the tunnel's port.
    func packetsReach(_ foreign: LabSocket, _ what: String) async throws {
        while foreign.receive() != nil {}
        let sender = try await LabSocket.sending(to: Self.foreignPod, port: 9, from: pods[0])
        _ = try await until(what, { "\(daemons[0].status?.peers ?? [])" }) {
            sender.send()
            return foreign.receive() != nil ? true : nil
        }
    }
}

/// What a packet was wrong by: no node of these labs sends such.
let malformed: Set<Counter> = [
    .dropOutboundMalformedTooShort, .dropOutboundMalformedVersion, .dropOutboundMalformedHeaderLength,
    .dropOutboundMalformedTotalLength, .dropOutboundSuperPacketTruncated, .dropOutboundSuperPacketVersion,
    .dropOutboundSuperPacketLength, .dropOutboundSuperPacketTransport, .dropOutboundSuperPacketFragment,
    .dropOutboundSuperPacketSegmentation, .dropOutboundSuperPacketSegmentSize,
    .dropOutboundSuperPacketSegmentCount, .dropOutboundSuperPacketFlags,
    .dropOutboundSuperPacketChecksumPlace,
    .dropInboundTruncated, .dropInboundTooShort, .dropInboundVersion, .dropInboundHeaderLength,
    .dropInboundTotalLength, .dropInboundHeaderChecksum,
]

extension LabDaemon {
    /// Of the packets that it dropped, those that were malformed.
    var malformedDrops: [Counter: UInt64] { status?.drops.filter { malformed.contains($0.key) } ?? [:] }

    /// Ends it, as a service manager does.
    func stop(_ number: Int32 = SIGTERM) async throws {
        signal(number)
        #expect(try await exitStatus() == 0)
    }

    /// Waits until an entry of the store is told of as no peer.
    func skips(_ key: String) async throws {
        try await wait(for: "\(key) among what is skipped") { $0.skipped.contains { $0.key == key } }
    }
}

extension LabHost {
    /// Waits until an interface is gone: the kernel takes a TUN away a moment after the process that held it.
    func loses(_ interface: String) async throws {
        _ = try await until("the end of \(interface)") {
            try await self.interface(interface) == nil ? true : nil
        }
    }
}
