import Addresses
import LeaseDirectory
import LeaseEtcd
import Leases
import Logging
import Node
import Worker

/// Everything that a node is told by whoever starts it. A command line is mapped to this value, and a test writes it
/// down; the daemon knows nothing of flags. The defaults are flanneld's, where flanneld has the same option.
struct NodeOptions: Sendable, Equatable {
    /// Where the network's configuration and the leases are.
    var store: StoreOptions
    /// Which interface carries the tunnel, and the IPv4 address that other nodes are told.
    var underlay = UnderlayOptions()
    /// The IPv6 address that other nodes are told; nil for none.
    var publicIPv6Address: IPv6Address?
    /// What the node does with its lease.
    var lease = Lease()
    /// Packet filter rules, and the routes beside the overlay's.
    var rules = Rules()
    /// The tunnel device, and what it lets through.
    var tunnel = Tunnel()
    /// How the data plane is tuned.
    var tuning = Tuning()
    /// What is seen of the node from outside.
    var observation = Observation()
    /// What was given and means nothing to twilld: the log says so at the start.
    var ineffective: [Ineffective] = []

    /// Makes the defaults for a node whose leases are in `store`.
    init(store: StoreOptions) { self.store = store }

    /// What the node does with its lease.
    struct Lease: Sendable, Equatable {
        /// The file that tells Docker and the CNI plugin the node's subnet, and the next start the same.
        var subnetFile = SubnetFile.defaultPath
        /// The directory that keeps the node's identity.
        var stateDirectory = "/var/lib/twill"
        /// How long before its end the lease is renewed.
        var renewalMargin = Duration.seconds(3600)
        /// What to do when another node took this node's subnet.
        var lossPolicy = LeaseOptions.LossPolicy.reacquire
    }

    /// Packet filter rules, and the routes beside the overlay's.
    struct Rules: Sendable, Equatable {
        /// Whether what leaves the overlay's network is masqueraded.
        var masquerades = false
        /// Whether masqueraded connections get random source ports.
        var randomizesPorts = true
        /// Whether forwarded packets of the overlay's network are accepted.
        var acceptsForwarding = true
        /// Whether a blackhole route takes the addresses of this node's subnet that no pod has.
        var hasBlackholeRoute = false
        /// How often rules, routes and files are compared with what they should be without a notification.
        var resyncInterval = Duration.seconds(5)
    }

    /// The tunnel device, and what it lets through.
    struct Tunnel: Sendable, Equatable {
        /// The device's name, 1 to 15 bytes.
        var interfaceName = "flannel0"
        /// The device's MTU in bytes; nil for the network configuration's, or else what the underlay carries.
        var mtu: Int?
        /// The UDP port of this node alone; nil for the network configuration's.
        var port: UInt16?
        /// Whether packets are taken whose inner source is not in the sending peer's subnet.
        var acceptsAnySource = false
        /// The time between two probes of the path to a peer that packets go to; nil: paths are not probed.
        var pathProbeInterval: Duration? = .seconds(60)
    }

    /// What is seen of the node from outside.
    struct Observation: Sendable, Equatable {
        /// The address or name on which `/healthz`, `/readyz` and `/metrics` answer.
        var healthHost = "0.0.0.0"
        /// The port on which they answer; 0: none.
        var healthPort: UInt16 = 0
        /// Up to how many peers `/metrics` has series for each; with more it has none of them.
        var peerMetricsLimit = 100
        /// The unix socket on which the running node answers `twilld status`.
        var statusSocket = "/run/twill/twilld.sock"
        /// The least level that is logged.
        var logLevel = Logger.Level.info
    }

    /// An option that was given and means nothing.
    struct Ineffective: Sendable, Equatable {
        /// The option's name, as it was given; nil where `advice` is a whole sentence.
        var name: String?
        /// What to do instead.
        var advice: String
    }
}

/// Where the network's configuration and the leases are.
enum StoreOptions: Sendable, Equatable {
    /// In a directory that all nodes have mounted.
    case directory(path: String)
    /// In etcd.
    case etcd(EtcdConfiguration)

    /// Opens the store; it connects at the first request.
    ///
    /// - Throws: where the options do not work, whatever the store says.
    func open() throws(CommandFailure) -> any LeaseStore {
        switch self {
        case .directory(let path): return DirectoryStore(path: path)
        case .etcd(let configuration):
            do throws(LeaseStoreError) {
                return try EtcdStore(configuration: configuration)
            } catch {
                throw CommandFailure(error)
            }
        }
    }

    /// What is given and has no effect, one sentence each.
    var remarks: [String] {
        switch self {
        case .directory: []
        case .etcd(let configuration): configuration.remarks
        }
    }
}
