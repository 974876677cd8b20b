import Health

/// What is known of a running node at one moment: what `twilld status` shows, as JSON what it prints with
/// `--json`. Members may be added in later releases; none changes its meaning.
public struct NodeStatus: Codable, Sendable, Equatable {
    /// The release of the daemon.
    public var version: String
    /// The commit that it was built from; nil where it was not packaged, or is of a release that does not tell.
    public var commit: String?
    /// The build ID that its linker gave it; nil from a release that does not tell.
    public var build: String?
    /// The daemon's process.
    public var processIdentifier: Int32
    /// Seconds since the daemon was started.
    public var uptimeSeconds: Double
    /// Whether the lease, the device, the routes and `subnet.env` are in place and nothing cuts the pods off.
    public var isReady: Bool
    /// What the daemon does or waits for, one sentence.
    public var state: String
    /// The store of leases.
    public var store: Store
    /// The interface below the tunnel; nil before it was chosen.
    public var underlay: Underlay?
    /// The tunnel; nil before it stands.
    public var tunnel: Tunnel?
    /// How small packets go past the packet threads; nil before the tunnel stands, and from a release that does not tell.
    public var kernelPath: KernelPath?
    /// This node's lease; nil before it has one.
    public var lease: Lease?
    /// The other nodes, ordered by subnet.
    public var peers: [Peer]
    /// What was carried to and from all peers together that are not counted one by one; nil where each is.
    public var otherPeersTraffic: Traffic?
    /// Entries of the store that are no peers.
    public var skipped: [Skipped]
    /// Everything that the node's work depends on and how it is, the worst first.
    public var components: [Component]
    /// What this node keeps in the kernel (routes, rules, settings) and in `subnet.env`, and how each item stands;
    /// nil from a release that does not tell.
    public var kernel: [KernelItem]?
    /// What an operator should know and do, one sentence each: those of the components that are not good.
    public var problems: [String]
    /// Everything that the data plane counted.
    public var counters: [CounterValue]
    /// How batches and times are distributed.
    public var histograms: [Histogram]
    /// What stood at some level in the workers' last rounds.
    public var gauges: [Gauge]
    /// The version of this document's form; nil from a release that does not tell. It grows where a member is taken
    /// away or comes to mean something else.
    public var schema: Int? = NodeStatus.schemaVersion
    /// How the data plane works; nil before there is one, and from a release that does not tell.
    public var engine: Engine?
    /// The last time that packets found no room; nil where that never was, and from a release that does not tell.
    public var loss: Loss?
    /// The last packets that were dropped for each reason, the newest first; nil from a release that does not tell.
    public var offenders: [Offender]?
    /// The kernel's release; nil from a release that does not tell.
    public var kernelRelease: String?

    /// Of this release.
    public static let schemaVersion = 1

    /// Makes a status without peers, counters or problems.
    public init(
        version: String, processIdentifier: Int32, uptimeSeconds: Double, isReady: Bool, state: String,
        store: Store
    ) {
        self.version = version
        self.processIdentifier = processIdentifier
        self.uptimeSeconds = uptimeSeconds
        self.isReady = isReady
        self.state = state
        self.store = store
        peers = []
        skipped = []
        components = []
        problems = []
        counters = []
        histograms = []
        gauges = []
    }
}

// MARK: - What /metrics says of it

extension NodeStatus {
    /// One family of `/metrics` that is read off a status.
    struct Metric: Sendable {
        /// As it stands in `/metrics` and in the manual.
        let name: String
        let kind: MetricsText.Kind
        let help: String
        /// Its values; none where there is nothing to tell yet.
        let samples: @Sendable (NodeStatus) -> [MetricsText.Sample]

        init(
            _ name: String, _ kind: MetricsText.Kind, _ help: String,
            samples: @escaping @Sendable (NodeStatus) -> [MetricsText.Sample]
        ) {
            self.name = name
            self.kind = kind
            self.help = help
            self.samples = samples
        }

        /// A family of one value, or of none where that is nil.
        init(
            _ name: String, _ kind: MetricsText.Kind, _ help: String,
            value: @escaping @Sendable (NodeStatus) -> Double?
        ) {
            self.init(name, kind, help, samples: { status in value(status).map { [.init($0)] } ?? [] })
        }
    }

    /// The families, in the order in which they are written. A member of the status that is a number has its family
    /// here.
    static let metrics: [Metric] = [
        Metric(
            "twill_build_info", .gauge,
            "Always 1; the labels tell the release, its commit and build, the engine and the kernel.",
            samples: { status in
                let labels = [
                    ("version", status.version), ("commit", status.commit ?? ""),
                    ("build", status.build ?? ""), ("engine", status.engine?.name ?? ""),
                    ("kernel", status.kernelRelease ?? ""),
                ]
                return [.init(1, labels: labels)]
            }),
        Metric("twill_uptime_seconds", .gauge, "Seconds since the daemon was started.") { $0.uptimeSeconds },
        Metric(
            "twill_ready", .gauge,
            "Whether lease, device, routes and subnet.env are in place and nothing cuts pods off."
        ) { $0.isReady ? 1 : 0 },
        Metric(
            "twill_store_connected", .gauge, "Whether the store of leases answers; packets flow without it."
        ) { $0.store.isConnected ? 1 : 0 },
        Metric("twill_store_reconnects_total", .counter, "Times the store was lost and found again.") {
            Double($0.store.reconnects)
        },
        Metric("twill_peers", .gauge, "Nodes that packets are sent to.") { Double($0.peers.count) },
        Metric(
            "twill_narrow_paths", .gauge,
            "Nodes that the tunnel's full size does not reach; twilld status says what does."
        ) { Double($0.peers.count { $0.pathMTU != nil }) },
        Metric(
            "twill_silent_peers", .gauge,
            "Nodes that packets go to and nothing comes back from, by what is known of them.",
            samples: { status in
                ["unanswered", "refused"].map { kind in
                    .init(Double(status.peers.count { $0.silence == kind }), labels: [("kind", kind)])
                }
            }),
        Metric(
            "twill_skipped_leases", .gauge,
            "Entries of the store that are no peers; twilld status says why."
        ) { Double($0.skipped.count) },
        Metric(
            "twill_problems", .gauge, "What an operator should look at; twilld status names it."
        ) { Double($0.problems.count) },
        Metric(
            "twill_component_condition", .gauge,
            "The worst condition of the components of a kind: 0 good, 1 degraded, 2 cutting pods off.",
            samples: \.worstConditions),
        Metric(
            "twill_kernel_path_on", .gauge, "Whether small packets go past the packet threads."
        ) { $0.kernelPath.map { $0.state == "on" ? 1 : 0 } },
        Metric(
            "twill_kernel_path_peers", .gauge, "Nodes that small packets go to past the packet threads."
        ) { $0.kernelPath.map { Double($0.ablePeers) } },
        Metric("twill_tunnel_mtu_bytes", .gauge, "The tunnel's MTU.") { $0.tunnel.map { Double($0.mtu) } },
        Metric(
            "twill_lease_age_seconds", .gauge, "Seconds since this node's lease was acquired or found."
        ) { $0.lease?.ageSeconds },
        Metric(
            "twill_lease_expiry_seconds", .gauge, "Seconds until this node's lease ends unless renewed."
        ) { $0.lease?.expirySeconds },
    ]

    private var worstConditions: [MetricsText.Sample] {
        Dictionary(grouping: components, by: \.kind).sorted { $0.key < $1.key }.map { kind, components in
            let worst = components.map { ["good": 0, "degraded": 1][$0.condition] ?? 2.0 }.max() ?? 0
            return MetricsText.Sample(worst, labels: [("component", kind)])
        }
    }
}

extension MetricsText {
    /// Writes what a status document says of the node beside the counters.
    public mutating func add(_ status: NodeStatus) {
        for metric in NodeStatus.metrics {
            let samples = metric.samples(status)
            if !samples.isEmpty { add(metric.name, metric.kind, help: metric.help, samples) }
        }
    }
}

// MARK: - Its parts

extension NodeStatus {
    /// One thing that the node's work depends on.
    public struct Component: Codable, Sendable, Equatable {
        /// `underlay`, `route`, `store`, …
        public var kind: String
        /// Which one, where there are several; else empty.
        public var subject: String
        /// `good`, `degraded` or `cut-off`.
        public var condition: String
        /// What is wrong and what to do; nil where it is good.
        public var problem: String?
        /// Seconds since it is in this condition.
        public var sinceSeconds: Double

        /// Makes a component as it stands at `now`.
        public init(_ state: ComponentState, now: ContinuousClock.Instant) {
            kind = state.component.kind.rawValue
            subject = state.component.subject
            condition = state.problem?.effect.rawValue ?? "good"
            problem = state.problem?.sentence
            sinceSeconds = (now - state.since) / .seconds(1)
        }
    }

    /// One thing that the node keeps in the kernel.
    public struct KernelItem: Codable, Sendable, Equatable {
        /// Its name: `route 10.66.0.0/16 dev flannel0`.
        public var item: String
        /// `good`, `failing`, or `leaving`: no longer wanted, and not gone yet.
        public var state: String
        /// What kept it from being as it is wanted, the last time; nil where it is good.
        public var lastError: String?
        /// How often it was tried again in this state.
        public var retries: Int
        /// Seconds since it is in this state.
        public var sinceSeconds: Double

        /// Makes an item's state.
        public init(
            item: String, state: String, lastError: String? = nil, retries: Int = 0, sinceSeconds: Double
        ) {
            self.item = item
            self.state = state
            self.lastError = lastError
            self.retries = retries
            self.sinceSeconds = sinceSeconds
        }
    }

    /// Where the leases are kept.
    public struct Store: Codable, Sendable, Equatable {
        /// The kind and the place: `etcd http://10.0.0.1:2379 /coreos.com/network`.
        public var name: String
        /// Whether the last request succeeded and changes are being followed.
        public var isConnected: Bool
        /// How often the connection was lost and found again.
        public var reconnects: UInt64

        /// Makes a store's state.
        public init(name: String, isConnected: Bool, reconnects: UInt64) {
            self.name = name
            self.isConnected = isConnected
            self.reconnects = reconnects
        }
    }

    /// The interface that carries the tunnel's datagrams.
    public struct Underlay: Codable, Sendable, Equatable {
        /// The interface's name.
        public var interface: String
        /// The address that the socket is bound to.
        public var address: String
        /// Where the others send to: address and port.
        public var endpoint: String
        /// Bytes.
        public var mtu: Int

        /// Makes an underlay.
        public init(interface: String, address: String, endpoint: String, mtu: Int) {
            self.interface = interface
            self.address = address
            self.endpoint = endpoint
            self.mtu = mtu
        }
    }

    /// This node's lease.
    public struct Lease: Codable, Sendable, Equatable {
        /// This node's subnet.
        public var subnet: String
        /// Whether it never expires.
        public var isReservation: Bool
        /// Whether a cluster assigned it (Kubernetes: `podCIDR`); nil from a release that does not tell.
        public var isAssigned: Bool?
        /// Seconds since it was acquired, or found at the start.
        public var ageSeconds: Double
        /// Seconds until it ends unless renewed; nil for a reservation.
        public var expirySeconds: Double?

        /// Makes a lease.
        public init(
            subnet: String, isReservation: Bool, isAssigned: Bool = false, ageSeconds: Double,
            expirySeconds: Double?
        ) {
            self.subnet = subnet
            self.isReservation = isReservation
            self.isAssigned = isAssigned
            self.ageSeconds = ageSeconds
            self.expirySeconds = expirySeconds
        }
    }

    /// Another node.
    public struct Peer: Codable, Sendable, Equatable {
        /// The subnet behind it.
        public var subnet: String
        /// Where its packets are sent.
        public var endpoint: String
        /// Where those of IPv6 are sent, where that is another address (`Tunnel.ipv6`); nil where it is not, where the peer
        /// has none, and from a release that does not tell.
        public var ipv6Endpoint: String?
        /// What was carried; nil before anything can be, and where the peer is not counted by itself.
        public var traffic: Traffic?
        /// The largest packet in bytes that reaches it, the tunnel's headers included; nil where the path carries the
        /// tunnel's full size, as far as is known.
        public var pathMTU: Int?
        /// Whether small packets to it go by the kernel path now; nil where this node has none, and from a release that
        /// does not tell.
        public var kernelPath: Bool?
        /// What the node is called; nil where nobody told, and from a release that does not tell.
        public var name: String?
        /// `unanswered`: packets go to it, and nothing comes back; `refused`: its host says besides that nobody listens
        /// on its UDP port. Nil where it is heard or nothing goes to it, and from a release that does not tell.
        public var silence: String?
        /// What became of the questions that this node's daemon asks the peer's; nil where it answers none (flannel, a
        /// daemon that is gone), where this node has no kernel path, which is what asks, and from a release that does not tell.
        public var hellos: Hellos?

        /// Makes a peer.
        public init(
            subnet: String, endpoint: String, traffic: Traffic? = nil, pathMTU: Int? = nil,
            kernelPath: Bool? = nil
        ) {
            self.subnet = subnet
            self.endpoint = endpoint
            self.traffic = traffic
            self.pathMTU = pathMTU
            self.kernelPath = kernelPath
        }
    }

    /// The way of small packets of sparse flows past the packet threads, by programs in the kernel.
    public struct KernelPath: Codable, Sendable, Equatable {
        /// `on`; `waiting`, for what `detail` says; `off`, by the options; or `refused`, by the kernel.
        public var state: String
        /// Why it is not on; nil where it is.
        public var detail: String?
        /// How the programs are attached, `clsact` (a former release: or `tcx`); nil where they are not.
        public var attachment: String?
        /// How many peers are sent to by it now.
        public var ablePeers: Int
        /// Bytes of the largest packet that it takes; nil where there is none, and from a release that did not say so.
        public var packetBytes: Int?

        /// Makes a state.
        public init(
            state: String, detail: String? = nil, attachment: String? = nil, ablePeers: Int = 0,
            packetBytes: Int? = nil
        ) {
            self.packetBytes = packetBytes
            self.state = state
            self.detail = detail
            self.attachment = attachment
            self.ablePeers = ablePeers
        }
    }

    /// Questions from daemon to daemon by the underlay, and their answers, since the data plane was started.
    public struct Hellos: Codable, Sendable, Equatable {
        /// Questions that were sent.
        public var asked: UInt64
        /// Of those, how many were answered.
        public var answered: UInt64
        /// The shortest of the last five round trips, in seconds; the peer's daemon is in it.
        public var roundTripSeconds: Double

        /// Makes one.
        public init(asked: UInt64, answered: UInt64, roundTripSeconds: Double) {
            self.asked = asked
            self.answered = answered
            self.roundTripSeconds = roundTripSeconds
        }
    }

    /// What was carried to and from a peer since the data plane was started.
    public struct Traffic: Codable, Sendable, Equatable {
        /// Sent to it.
        public var sent: Flow
        /// Received from it and let in.
        public var received: Flow
        /// Seconds since the last packet came from it; nil where none did.
        public var lastReceivedSeconds: Double?

        /// Makes a traffic.
        public init(sent: Flow, received: Flow, lastReceivedSeconds: Double? = nil) {
            self.sent = sent
            self.received = received
            self.lastReceivedSeconds = lastReceivedSeconds
        }
    }

    /// Packets in one direction.
    public struct Flow: Codable, Sendable, Equatable {
        /// Inner packets.
        public var packets: UInt64
        /// Inner bytes.
        public var bytes: UInt64
        /// Over the last seconds; nil before there are any.
        public var packetsPerSecond: Double?
        /// Over the last seconds; nil before there are any.
        public var bytesPerSecond: Double?

        /// Makes a flow.
        public init(
            packets: UInt64, bytes: UInt64, packetsPerSecond: Double? = nil, bytesPerSecond: Double? = nil
        ) {
            self.packets = packets
            self.bytes = bytes
            self.packetsPerSecond = packetsPerSecond
            self.bytesPerSecond = bytesPerSecond
        }
    }

    /// An entry of the store that no packet is sent to.
    public struct Skipped: Codable, Sendable, Equatable {
        /// Its key.
        public var key: String
        /// Why, one sentence.
        public var reason: String

        /// Makes a skipped entry.
        public init(key: String, reason: String) {
            self.key = key
            self.reason = reason
        }
    }

    /// One counter of the data plane.
    public struct CounterValue: Codable, Sendable, Equatable {
        /// As in `/metrics` and in what SIGUSR1 prints.
        public var name: String
        /// Since the data plane was started.
        public var value: UInt64
        /// What was counted and, for a drop, what to do about it.
        public var meaning: String
        /// Whether it counts packets that were lost.
        public var isDrop: Bool
        /// Whether it counts ways of doing something that failed and were given up for slower ones.
        public var isFallback: Bool
        /// Over the last seconds; nil before there are any.
        public var perSecond: Double?

        /// Makes a value.
        public init(
            name: String, value: UInt64, meaning: String, isDrop: Bool = false, isFallback: Bool = false,
            perSecond: Double? = nil
        ) {
            self.name = name
            self.value = value
            self.meaning = meaning
            self.isDrop = isDrop
            self.isFallback = isFallback
            self.perSecond = perSecond
        }
    }

    /// How a size or a time is distributed.
    public struct Histogram: Codable, Sendable, Equatable {
        /// As in `/metrics`; times end in `_seconds`.
        public var name: String
        /// What an observation is.
        public var meaning: String
        /// The largest value in each bucket but the last, which has no limit.
        public var bounds: [Double]
        /// Observations in each bucket, not those below it; one more than `bounds`.
        public var counts: [UInt64]
        /// The sum of all observations.
        public var sum: Double
    }

    /// A level.
    public struct Gauge: Codable, Sendable, Equatable {
        /// As in `/metrics`.
        public var name: String
        /// In the last round of each worker, summed.
        public var value: UInt64
        /// What stands at the level.
        public var meaning: String
    }
}
