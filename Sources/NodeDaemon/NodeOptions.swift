import Addresses
import Backends
import KubernetesNodes
import Leases
import Logging
import Node
import Worker

/// Everything that a node is told by whoever starts it. A command line is mapped to this value, and a test writes it
/// down; the daemon knows nothing of flags. The defaults are flanneld's, where flanneld has the same option.
package struct NodeOptions: Sendable, Equatable {
    /// Where the network's configuration, its nodes and this node's subnet come from.
    package var origin: NetworkOrigin
    /// Which interface carries the tunnel, and the addresses that other nodes are told.
    package var underlay = UnderlayOptions()
    /// What the node does with its lease.
    package var lease = Lease()
    /// Packet filter rules, and the routes beside the overlay's.
    package var rules = Rules()
    /// The tunnel device, and what it lets through.
    package var tunnel = Tunnel()
    /// What of this machine the network's backend goes by.
    package var machine = BackendMachine()
    /// How the data plane is tuned.
    package var tuning = Tuning()
    /// How pods of this node get their network, where that is the daemon's to say; nil where it is not.
    package var containerNetwork: ContainerNetworkOptions?
    /// What is seen of the node from outside.
    package var observation = Observation()
    /// What is taken over from the process before, and what is left to the next.
    package var succession = Succession()
    /// What was given and means nothing to twilld: the log says so at the start.
    package var ineffective: [Ineffective] = []

    /// Makes the defaults for a node of the network that `origin` tells of.
    package init(origin: NetworkOrigin) { self.origin = origin }

    /// Takes over what the environment says for the network's backend.
    package mutating func take(environment: [String: String]) {
        machine = BackendMachine(environment: environment)
    }

    /// Takes over those of other options that need no restart.
    mutating func follow(_ new: NodeOptions) {
        rules = new.rules
        tunnel.port = new.tunnel.port
        tunnel.mtu = new.tunnel.mtu
        tunnel.acceptsAnySource = new.tunnel.acceptsAnySource
        tuning = new.tuning
        succession.stop = new.succession.stop
    }

    /// What the node does with its lease.
    package struct Lease: Sendable, Equatable {
        /// The file that tells Docker and the CNI plugin the node's subnet, and the next start the same.
        package var subnetFile = SubnetFile.defaultPath
        /// The directory that keeps the node's identity.
        package var stateDirectory = "/var/lib/twill"
        /// How long before its end the lease is renewed.
        package var renewalMargin = Duration.seconds(3600)
        /// What to do when another node took this node's subnet.
        package var lossPolicy = LeaseOptions.LossPolicy.reacquire

        /// The defaults.
        package init() {}

    }

    /// Packet filter rules, and the routes beside the overlay's.
    package struct Rules: Sendable, Equatable {
        /// Whether what leaves the overlay's network is masqueraded.
        package var masquerades = false
        /// Whether masqueraded connections get random source ports.
        package var randomizesPorts = true
        /// Whether forwarded packets of the overlay's network are accepted.
        package var acceptsForwarding = true
        /// Whether a blackhole route takes the addresses of this node's subnet that no pod has.
        package var hasBlackholeRoute = false
        /// How often rules, routes and files are compared with what they should be without a notification.
        package var resyncInterval = Duration.seconds(5)

        /// The defaults.
        package init() {}

    }

    /// The tunnel device, and what it lets through.
    package struct Tunnel: Sendable, Equatable {
        /// The device's name, 1 to 15 bytes.
        package var interfaceName = "flannel0"
        /// The device's MTU in bytes; nil for the network configuration's, or else what the underlay carries.
        package var mtu: Int?
        /// The UDP port of this node alone; nil for the network configuration's.
        package var port: UInt16?
        /// Whether packets are taken whose inner source is not in the sending peer's subnet.
        package var acceptsAnySource = false
        /// The time between two probes of the path to a peer that packets go to; nil: paths are not probed.
        package var pathProbeInterval: Duration? = .seconds(60)

        /// The defaults.
        package init() {}

    }

    /// What is seen of the node from outside.
    package struct Observation: Sendable, Equatable {
        /// The address or name on which `/healthz`, `/readyz` and `/metrics` answer.
        package var healthHost = "0.0.0.0"
        /// The port on which they answer; 0: none.
        package var healthPort: UInt16 = 0
        /// Up to how many peers `/metrics` has series for each; with more it has none of them.
        package var peerMetricsLimit = 100
        /// The unix socket on which the running node answers `twilld status`.
        package var statusSocket = "/run/twill/twilld.sock"
        /// How much is logged.
        package var logVerbosity = LogVerbosity()

        /// The defaults.
        package init() {}

    }

    /// What is taken over from the process before, and what is left to the next.
    package struct Succession: Sendable, Equatable {
        /// Whether a daemon that runs already hands over to this one; else this one does not start.
        package var takesOver = true
        /// What one that was told to stop leaves of the tunnel device.
        package var stop = StopAction.keep
        /// Whether one that has handed over waits to be told to stop, so that whoever looks after its process does not start
        /// it again.
        package var waitsWhenTakenOver = false

        /// The defaults.
        package init() {}
    }

    /// What a daemon that was told to stop leaves of the tunnel device.
    package enum StopAction: String, Sendable, CaseIterable {
        /// The device with its addresses and routes, which drops what goes there: nothing takes a wrong way.
        case keep
        /// Nothing, as flanneld does.
        case remove
    }

    /// An option that was given and means nothing.
    package struct Ineffective: Sendable, Equatable {
        /// The option's name, as it was given; nil where `advice` is a whole sentence.
        package var name: String?
        /// What to do instead.
        package var advice: String

        /// Makes one.
        package init(name: String? = nil, advice: String) {
            self.name = name
            self.advice = advice
        }
    }
}

/// Where a network's configuration, its nodes and this node's subnet come from.
package enum NetworkOrigin: Sendable, Equatable {
    /// A store of leases, of which each node takes one.
    case store(StoreOptions)
    /// A Kubernetes cluster, which assigns a subnet to each of its nodes.
    case kubernetes(KubernetesOptions)

    /// Whether subnets are assigned, and not leased.
    package var isCluster: Bool {
        if case .kubernetes = self { true } else { false }
    }

    /// What is given and has no effect, one sentence each.
    package var remarks: [String] {
        switch self {
        case .store(let options): options.remarks
        case .kubernetes(let options): options.remarks
        }
    }
}
