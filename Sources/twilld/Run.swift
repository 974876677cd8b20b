import ArgumentParser

/// `twilld run`: the daemon.
struct Run: FlagTaking {
    static let flags = Flag.run

    static let configuration = CommandConfiguration(
        commandName: "run",
        abstract: "Take a subnet, make the tunnel, carry packets until stopped (the default).",
        discussion: """
            Flags may be written -flag=value, -flag value, --flag=value or --flag value; a boolean alone means \
            true. What the command line lacks is taken from the environment (FLANNELD_ETCD_ENDPOINTS for \
            --etcd-endpoints, and so on for each flag), then from the file that --config names, which holds \
            flags as name = value, one a line.

            \(ExitStatus.helpText)
            """)

    @OptionGroup(title: "Store") var store: StoreFlags
    @OptionGroup(title: "Underlay") var underlay: UnderlayFlags
    @OptionGroup(title: "Lease") var lease: LeaseFlags
    @OptionGroup(title: "Rules") var rules: RuleFlags
    @OptionGroup(title: "Tunnel") var tunnel: TunnelFlags
    @OptionGroup(title: "Seen from outside") var observation: ObservationFlags
    @OptionGroup(title: "Kubernetes") var kubernetes: KubernetesFlags

    @Option(help: ArgumentHelp("File with flags that the command line lacks.", valueName: "file"))
    var config: String?

    func run() async throws {
        try refuseWhatIsNotBuilt()
    }

    /// Ends with the name of what was asked for and is not built: an operator must not believe that it works.
    func refuseWhatIsNotBuilt() throws(CommandFailure) {
        if kubernetes.kubeSubnetMgr {
            throw CommandFailure(
                .unavailable,
                "--kube-subnet-mgr (leases from the Kubernetes API) is not built yet; use etcd or --lease-dir")
        }
    }
}
