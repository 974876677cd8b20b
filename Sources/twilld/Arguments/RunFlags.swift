import Addresses
import ArgumentParser
import Leases
import Logging
import Node
import NodeDaemon

extension IPv4Address: ExpressibleByArgument {
    /// Dotted decimal.
    public init?(argument: String) { self.init(argument) }
}

extension IPAddress: ExpressibleByArgument {
    /// Either family's text.
    public init?(argument: String) { self.init(argument) }
}

extension IPv6Address: ExpressibleByArgument {
    /// The forms of RFC 4291.
    public init?(argument: String) { self.init(argument) }
}

/// Which interface carries the tunnel, and the addresses under which others reach this node.
struct UnderlayFlags: FlagGroup {
    static let flags: [GoFlag] = [
        GoFlag("iface", .repeatable), GoFlag("iface-regex", .repeatable), GoFlag("iface-can-reach"),
        GoFlag("public-ip"), GoFlag("public-ipv6"),
    ]

    @Option(
        parsing: .singleValue,
        help: ArgumentHelp(
            "Interface, by name or address, that carries the tunnel; the first that exists. Repeatable.",
            valueName: "name|address"), completion: .interfaces)
    var iface: [String] = []

    @Option(
        parsing: .singleValue,
        help: ArgumentHelp(
            "Regular expression for the interface; tried on addresses, then on names, after --iface. "
                + "Repeatable.",
            valueName: "regex"))
    var ifaceRegex: [String] = []

    @Option(
        help: ArgumentHelp("Take the interface that the route to this address uses.", valueName: "address"))
    var ifaceCanReach: IPAddress?

    @Option(
        help: ArgumentHelp(
            "Address that other nodes send to, where it is not the interface's own.", valueName: "address"))
    var publicIp: IPv4Address?

    @Option(help: ArgumentHelp("The same for IPv6.", valueName: "address"))
    var publicIpv6: IPv6Address?

    /// The same for the daemon.
    var options: UnderlayOptions {
        UnderlayOptions(
            interfaces: iface, interfacePatterns: ifaceRegex, reachableAddress: ifaceCanReach,
            publicAddress: publicIp, publicIPv6Address: publicIpv6)
    }
}

/// What to do when another node took this node's subnet.
enum LeaseLossAction: String, CaseIterable, ExpressibleByArgument {
    /// Take another subnet and go on.
    case reacquire
    /// End with exit status 75, as flanneld does.
    case exit

    /// The same for the lease keeper.
    var policy: LeaseOptions.LossPolicy {
        switch self {
        case .reacquire: .reacquire
        case .exit: .exit
        }
    }
}

/// What the node does with its lease.
struct LeaseFlags: FlagGroup {
    static let flags: [GoFlag] = [
        GoFlag("subnet-file"), GoFlag("subnet-lease-renew-margin"), GoFlag("state-dir"),
        GoFlag("on-lease-loss"),
    ]

    @Option(
        help: ArgumentHelp("File that tells Docker and the CNI plugin the node's subnet.", valueName: "file"),
        completion: .file())
    var subnetFile = NodeOptions.Lease().subnetFile

    @Option(
        help: ArgumentHelp(
            "Minutes before its end at which the lease is renewed, 1 to 1439.", valueName: "minutes"))
    var subnetLeaseRenewMargin = 60

    @Option(
        help: ArgumentHelp(
            "Directory that keeps this node's identity, which tells it from another with its address.",
            valueName: "directory"), completion: .directory)
    var stateDir = NodeOptions.Lease().stateDirectory

    @Option(
        help: ArgumentHelp(
            "When another node took this node's subnet: reacquire (another subnet) or exit, as flanneld "
                + "does.",
            valueName: "action"))
    var onLeaseLoss = LeaseLossAction.reacquire

    /// The same for the daemon.
    var options: NodeOptions.Lease {
        var lease = NodeOptions.Lease()
        lease.subnetFile = subnetFile
        lease.stateDirectory = stateDir
        lease.renewalMargin = .seconds(subnetLeaseRenewMargin * 60)
        lease.lossPolicy = onLeaseLoss.policy
        return lease
    }

    func validate() throws {
        guard (1...1439).contains(subnetLeaseRenewMargin) else {
            throw ValidationError(
                "--subnet-lease-renew-margin is \(subnetLeaseRenewMargin) minutes; it is 1 to 1439, "
                    + "inside the lease's 24 hours")
        }
    }
}

/// Masquerade, forward rules and the routes beside the overlay's.
struct RuleFlags: FlagGroup {
    static let flags: [GoFlag] = [
        GoFlag("ip-masq", .boolean), GoFlag("ip-masq-fully-random-disable", .boolean),
        GoFlag("iptables-resync"),
        GoFlag("iptables-forward-rules", .boolean), GoFlag("ip-blackhole-route", .boolean),
    ]

    @Option(help: ArgumentHelp("Masquerade what leaves the overlay's network.", valueName: "bool"))
    var ipMasq = false

    @Option(help: ArgumentHelp("Masquerade without random source ports.", valueName: "bool"))
    var ipMasqFullyRandomDisable = false

    @Option(
        help: ArgumentHelp(
            "Seconds between two checks of the rules; 0 is the least, 1.", valueName: "seconds"))
    var iptablesResync = 5

    @Option(help: ArgumentHelp("Accept forwarded packets of the overlay's network.", valueName: "bool"))
    var iptablesForwardRules = true

    @Option(
        help: ArgumentHelp(
            "A blackhole route for this node's subnet, for addresses that no pod has.", valueName: "bool"))
    var ipBlackholeRoute = false

    /// The same for the daemon. flanneld takes a resync of 0 s and then checks without a pause.
    var options: NodeOptions.Rules {
        var rules = NodeOptions.Rules()
        rules.masquerades = ipMasq
        rules.randomizesPorts = !ipMasqFullyRandomDisable
        rules.acceptsForwarding = iptablesForwardRules
        rules.hasBlackholeRoute = ipBlackholeRoute
        rules.resyncInterval = .seconds(max(1, iptablesResync))
        return rules
    }

    func validate() throws {
        guard (0...86_400).contains(iptablesResync) else {
            throw ValidationError("--iptables-resync is \(iptablesResync) seconds; it is 0 to 86400")
        }
    }
}

/// Which device is the tunnel's.
struct TunnelNameFlag: FlagGroup {
    static let flags = [GoFlag("tun-name")]

    @Option(help: ArgumentHelp("Name of the tunnel device, 1 to 15 bytes.", valueName: "name"))
    var tunName = NodeOptions.Tunnel().interfaceName

    func validate() throws {
        // dev_valid_name() in the kernel's net/core/dev.c: below IFNAMSIZ, no slash, colon or white space.
        let isName =
            (1...15).contains(tunName.utf8.count) && tunName != "." && tunName != ".."
            && !tunName.utf8.contains { $0 == 0x2F || $0 == 0x3A || $0 == 0x20 || (0x09...0x0D).contains($0) }
        guard isName else {
            throw ValidationError(
                "--tun-name \"\(tunName)\" is no device name: 1 to 15 bytes without slash, colon or space")
        }
    }
}

/// The tunnel device and what it lets through.
struct TunnelFlags: FlagGroup {
    static let flags: [GoFlag] =
        TunnelNameFlag.flags + [
            GoFlag("mtu"), GoFlag("port"), GoFlag("accept-any-source", .boolean),
            GoFlag("path-probe-interval"),
        ]

    @OptionGroup var device: TunnelNameFlag

    @Option(
        help: ArgumentHelp(
            "The tunnel's MTU; without it, the network config's, else the underlay's less 28 bytes.",
            valueName: "bytes"))
    var mtu: Int?

    @Option(
        help: ArgumentHelp(
            "UDP port of this node alone, told to the others; without it, the network config's.",
            valueName: "port"))
    var port: Int?

    @Option(
        help: ArgumentHelp(
            "Take packets whose inner source is not in the sending peer's subnet.", valueName: "bool"))
    var acceptAnySource = false

    @Option(
        help: ArgumentHelp(
            "Seconds between two probes of the path to a node that packets go to; 0: none.",
            valueName: "seconds"))
    var pathProbeInterval = 60

    /// The same for the daemon.
    var options: NodeOptions.Tunnel {
        var tunnel = NodeOptions.Tunnel()
        tunnel.interfaceName = device.tunName
        tunnel.mtu = mtu
        tunnel.port = port.map { UInt16(clamping: $0) }
        tunnel.acceptsAnySource = acceptAnySource
        tunnel.pathProbeInterval = pathProbeInterval == 0 ? nil : .seconds(pathProbeInterval)
        return tunnel
    }

    func validate() throws {
        guard (0...86_400).contains(pathProbeInterval) else {
            throw ValidationError("--path-probe-interval is \(pathProbeInterval) seconds; it is 0 to 86400")
        }
        if let port, !(1...65_535).contains(port) {
            throw ValidationError("--port is \(port); it is 1 to 65535")
        }
        // RFC 791: every IPv4 link carries 68 bytes; 65,507 is the largest UDP payload.
        if let mtu, !(68...65_507).contains(mtu) {
            throw ValidationError("--mtu is \(mtu) bytes; it is 68 to 65507")
        }
    }
}

/// What is seen of the daemon from outside.
struct ObservationFlags: FlagGroup {
    static let flags: [GoFlag] =
        StatusSocketFlag.flags + [
            GoFlag("healthz-ip"), GoFlag("healthz-port"), GoFlag("metrics-peers"), GoFlag("v"),
            GoFlag("vmodule"),
        ]

    @Option(
        help: ArgumentHelp("Address on which /healthz, /readyz and /metrics answer.", valueName: "address"))
    var healthzIp = NodeOptions.Observation().healthHost

    @Option(help: ArgumentHelp("Port on which they answer; 0: none.", valueName: "port"))
    var healthzPort = 0

    @Option(
        help: ArgumentHelp(
            "Up to how many nodes /metrics has series for each; with more it has none of them.",
            valueName: "number"))
    var metricsPeers = NodeOptions.Observation().peerMetricsLimit

    @OptionGroup var status: StatusSocketFlag

    @Option(
        name: .customLong("v"),
        help: ArgumentHelp(
            "How much is logged: 0 events; 1 and above what was decided, about leases, routes, peers and packets.",
            valueName: "level"))
    var verbosity = 0

    @Option(
        help: ArgumentHelp(
            "More of what is logged in some modules: Leases=1,Reconciler=1; the names are ARCHITECTURE.md's.",
            valueName: "pattern=level"))
    var vmodule = ""

    /// The same for the daemon.
    var options: NodeOptions.Observation {
        var observation = NodeOptions.Observation()
        observation.healthHost = healthzIp
        observation.healthPort = UInt16(clamping: healthzPort)
        observation.peerMetricsLimit = metricsPeers
        observation.statusSocket = status.statusSocket
        observation.logVerbosity = LogVerbosity(
            ObservationFlags.logLevel(verbosity: verbosity), places: ObservationFlags.places(vmodule) ?? [])
        return observation
    }

    /// The places of `--vmodule`; nil where it is written wrongly.
    static func places(_ text: String) -> [LogVerbosity.Place]? {
        var places: [LogVerbosity.Place] = []
        for part in text.split(separator: ",") {
            let words = part.split(separator: "=", omittingEmptySubsequences: false)
            guard words.count == 2, let pattern = words.first, !pattern.isEmpty,
                let level = words.last.flatMap({ Int($0) })
            else { return nil }
            places.append(.init(String(pattern), logLevel(verbosity: level)))
        }
        return places
    }

    /// The level that `-v` asks for; flanneld's 0 shows what an operator needs.
    static func logLevel(verbosity: Int) -> Logger.Level {
        switch verbosity {
        case ...0: .info
        default: .debug
        }
    }

    func validate() throws {
        guard (0...65_535).contains(healthzPort) else {
            throw ValidationError("--healthz-port is \(healthzPort); it is 1 to 65535, or 0 for none")
        }
        if ObservationFlags.places(vmodule) == nil {
            throw ValidationError(
                "--vmodule is \"\(vmodule)\"; it is NAME=LEVEL, with commas between several: Leases=1,Node=1")
        }
        if metricsPeers < 0 { throw ValidationError("--metrics-peers is negative; 0 is none") }
    }
}

/// Flags of flanneld's logging library: taken, so that its unit files work, and without effect.
struct LoggingFlags: FlagGroup {
    static let flags: [GoFlag] = [
        GoFlag("log_backtrace_at"), GoFlag("logtostderr", .boolean),
        GoFlag("alsologtostderr", .boolean), GoFlag("stderrthreshold"), GoFlag("log_dir"),
    ]

    @Option(
        name: .customLong("log_backtrace_at"),
        help: ArgumentHelp("Without effect: names a line of flanneld's source.", valueName: "place"))
    var backtracePlace: String?

    @Option(
        name: .customLong("logtostderr"),
        help: ArgumentHelp("Without effect: twilld logs to standard error alone.", valueName: "bool"))
    var logsToStandardError: Bool?

    @Option(
        name: .customLong("alsologtostderr"),
        help: ArgumentHelp("Without effect: twilld logs to standard error alone.", valueName: "bool"))
    var alsoLogsToStandardError: Bool?

    @Option(
        name: .customLong("stderrthreshold"),
        help: ArgumentHelp("Without effect: see --v.", valueName: "level"))
    var standardErrorThreshold: String?

    @Option(
        name: .customLong("log_dir"),
        help: ArgumentHelp("Without effect: twilld logs to standard error alone.", valueName: "directory"),
        completion: .directory)
    var directory: String?

    /// What was given for nothing, and what to do instead.
    var ineffective: [NodeOptions.Ineffective] {
        let alone = "twilld logs to standard error alone"
        let advice: [(flag: String, isGiven: Bool, advice: String)] = [
            ("log_backtrace_at", backtracePlace != nil, "remove it"),
            ("logtostderr", logsToStandardError != nil, "\(alone): remove it"),
            ("alsologtostderr", alsoLogsToStandardError != nil, "\(alone): remove it"),
            ("stderrthreshold", standardErrorThreshold != nil, "use -v"),
            ("log_dir", directory != nil, "\(alone): let the service manager write the file"),
        ]
        return advice.filter(\.isGiven).map { NodeOptions.Ineffective(name: $0.flag, advice: $0.advice) }
    }
}

/// The socket on which a running daemon answers `twilld status`.
struct StatusSocketFlag: FlagGroup {
    static let flags = [GoFlag("status-socket")]

    @Option(help: ArgumentHelp("Unix socket of the running daemon.", valueName: "path"), completion: .file())
    var statusSocket = NodeOptions.Observation().statusSocket
}
