/// One flag of the command line, as far as it must be known before ArgumentParser sees it: Go's style lets a
/// boolean stand alone and lets every other flag take the next word, so that the words cannot be told apart
/// without this table. A test holds it against the options that ArgumentParser declares.
struct Flag: Sendable, Hashable {
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

    /// The variable that stands in where the flag is not given: `FLANNELD_ETCD_ENDPOINTS`, as flanneld has it.
    var environmentName: String {
        "FLANNELD_" + name.uppercased().map { $0 == "-" ? "_" : String($0) }.joined()
    }
}

extension Flag {
    /// Where the network config and the leases are.
    static let store: [Flag] = [
        Flag("lease-dir"),
        Flag("etcd-endpoints"), Flag("etcd-prefix"), Flag("etcd-keyfile"), Flag("etcd-certfile"),
        Flag("etcd-cafile"), Flag("etcd-username"), Flag("etcd-password"),
    ]

    /// Which interface and addresses carry the tunnel.
    static let underlay: [Flag] = [
        Flag("iface", .repeatable), Flag("iface-regex", .repeatable), Flag("iface-can-reach"),
        Flag("public-ip"), Flag("public-ipv6"),
    ]

    /// What the node does with its lease.
    static let node: [Flag] = [
        Flag("subnet-file"), Flag("subnet-lease-renew-margin"), Flag("on-lease-loss"), Flag("ip-masq", .boolean),
        Flag("ip-masq-fully-random-disable", .boolean), Flag("iptables-resync"), Flag("state-dir"),
        Flag("iptables-forward-rules", .boolean), Flag("ip-blackhole-route", .boolean),
    ]

    /// flanneld's Kubernetes mode.
    static let kubernetes: [Flag] = [
        Flag("kube-subnet-mgr", .boolean), Flag("kube-api-url"), Flag("kube-annotation-prefix"),
        Flag("kubeconfig-file"), Flag("net-config-path"), Flag("set-node-network-unavailable", .boolean),
    ]

    /// The tunnel itself.
    static let tunnel: [Flag] = [
        Flag("tun-name"), Flag("mtu"), Flag("port"), Flag("accept-any-source", .boolean),
    ]

    /// How the data plane is tuned.
    static let tuning: [Flag] = [
        Flag("workers"), Flag("cpus"), Flag("socket-buffer"), Flag("queue-length"), Flag("tun-tso", .boolean),
        Flag("tun-uso", .boolean), Flag("udp-gso", .boolean), Flag("udp-gro", .boolean),
        Flag("huge-pages", .boolean), Flag("busy-poll"),
    ]

    /// What is seen from outside.
    static let observation: [Flag] = [
        Flag("healthz-ip"), Flag("healthz-port"), Flag("status-socket"), Flag("v"), Flag("vmodule"),
    ]

    /// What `twilld run` takes, besides `--config`, `--help` and `--version`.
    static let run = store + underlay + node + kubernetes + tunnel + tuning + observation
}
