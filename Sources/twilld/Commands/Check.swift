import ArgumentParser
import NodeDaemon

/// `twilld check`: whether this machine can run the daemon.
struct Check: FlagTaking {
    static let flags =
        StoreFlags.flags + UnderlayFlags.flags + [GoFlag("mtu")] + TuningFlags.flags
        + KubernetesModeFlag.flags

    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract:
            "Look at the machine; print a line for each thing that twilld needs, and what to do about it.",
        discussion: """
            The exit status is \(ExitStatus.checkFailed.rawValue) where a line says FAIL. The check makes a TUN \
            device and a UDP socket on loopback and takes them away again; it changes nothing. The store is asked where a \
            flag or the file names one. With --config it reads the daemon's configuration file, and refuses tuning \
            flags that are out of range.
            """)

    @OptionGroup(title: "Store") var store: StoreFlags
    @OptionGroup(title: "Underlay") var underlay: UnderlayFlags
    @OptionGroup(title: "Tuning") var tuning: TuningFlags

    @Option(help: ArgumentHelp("The tunnel's MTU, as it will be given to run.", valueName: "bytes"))
    var mtu: Int?

    @OptionGroup(title: "Kubernetes") var kubernetes: KubernetesModeFlag
    @OptionGroup var configurationFile: ConfigurationFileFlag

    @Flag(help: "Print the findings as JSON.")
    var json = false

    func run() async throws {
        var findings = await MachineCheck.findings(
            underlay: underlay.options, mtu: mtu, isOfKubernetes: kubernetes.isGivenOrInPod)
        if !store.isDefault, !kubernetes.kubeSubnetMgr {
            findings.append(await MachineCheck.storeFinding(store.options))
        }
        if json {
            try printDocument(DoctorDocument(findings: findings))
        } else {
            for finding in findings { print(finding.line) }
            print(Finding.summary(findings))
        }
        if findings.contains(where: { $0.outcome == .bad }) {
            throw ExitCode(ExitStatus.checkFailed.rawValue)
        }
    }
}
