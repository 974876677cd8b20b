/// One flag of the command line, as far as it must be known before ArgumentParser sees it: Go's style lets a
/// boolean stand alone and lets every other flag take the next word, so that the words cannot be told apart
/// without this table. A test holds it against the options that ArgumentParser declares.
struct GoFlag: Sendable, Hashable {
    /// What a flag takes.
    enum Kind: Sendable {
        /// Nothing, or `=true`, `=false` and Go's other spellings.
        case boolean
        /// One value; the last one given counts.
        case single
        /// One value each time that it is given; all of them count, in order.
        case repeatable
    }

    /// Without dashes: `etcd-endpoints`.
    let name: String
    let kind: Kind

    init(_ name: String, _ kind: Kind = .single) {
        self.name = name
        self.kind = kind
    }

    /// The variable that stands in where the flag is not given: `FLANNELD_ETCD_ENDPOINTS`, as flanneld has
    /// it.
    var environmentName: String {
        "FLANNELD_" + name.uppercased().map { $0 == "-" ? "_" : String($0) }.joined()
    }
}

extension GoFlag {
    /// Where the network config and the leases are.
    static let store: [GoFlag] = [
        GoFlag("lease-dir"),
        GoFlag("etcd-endpoints"), GoFlag("etcd-prefix"), GoFlag("etcd-keyfile"), GoFlag("etcd-certfile"),
        GoFlag("etcd-cafile"), GoFlag("etcd-username"), GoFlag("etcd-password"),
    ]

    /// Which interface and addresses carry the tunnel.
    static let underlay: [GoFlag] = [
        GoFlag("iface", .repeatable), GoFlag("iface-regex", .repeatable), GoFlag("iface-can-reach"),
        GoFlag("public-ip"), GoFlag("public-ipv6"),
    ]

    /// What the node does with its lease.
    static let node: [GoFlag] = [
        GoFlag("subnet-file"), GoFlag("subnet-lease-renew-margin"), GoFlag("on-lease-loss"),
        GoFlag("ip-masq", .boolean),
        GoFlag("ip-masq-fully-random-disable", .boolean), GoFlag("iptables-resync"), GoFlag("state-dir"),
        GoFlag("iptables-forward-rules", .boolean), GoFlag("ip-blackhole-route", .boolean),
    ]

    /// flanneld's Kubernetes mode.
    static let kubernetes: [GoFlag] = [
        GoFlag("kube-subnet-mgr", .boolean), GoFlag("kube-api-url"), GoFlag("kube-annotation-prefix"),
        GoFlag("kubeconfig-file"), GoFlag("net-config-path"),
        GoFlag("set-node-network-unavailable", .boolean),
    ]

    /// The tunnel itself.
    static let tunnel: [GoFlag] = [
        GoFlag("tun-name"), GoFlag("mtu"), GoFlag("port"), GoFlag("accept-any-source", .boolean),
        GoFlag("path-probe-interval"),
    ]

    /// What is seen from outside.
    static let observation: [GoFlag] = [
        GoFlag("healthz-ip"), GoFlag("healthz-port"), GoFlag("metrics-peers"), GoFlag("status-socket"),
        GoFlag("v"),
    ]

    /// How flanneld's logging library (klog, and glog in old releases) writes: taken, so that its unit files
    /// work.
    static let logging: [GoFlag] = [
        GoFlag("vmodule"), GoFlag("log_backtrace_at"), GoFlag("logtostderr", .boolean),
        GoFlag("alsologtostderr", .boolean), GoFlag("stderrthreshold"), GoFlag("log_dir"),
    ]

    /// What `twilld run` takes, besides `--config`, `--help` and `--version`.
    static let run = store + underlay + node + kubernetes + tunnel + TuningFlags.flags + observation + logging
}
