import Addresses
import ArgumentParser
import Backends
import Health
import Logging
import Node

/// `twilld check`: whether this machine can run the daemon.
struct Check: FlagTaking {
    static let flags = GoFlag.underlay + [GoFlag("mtu")] + GoFlag.tuning

    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract:
            "Look at the machine; print a line for each thing that twilld needs, and what to do about it.",
        discussion: """
            The exit status is \(ExitStatus.checkFailed.rawValue) where a line says FAIL. The check makes a TUN \
            device and a UDP socket on loopback and takes them away again; it changes nothing. With --config it \
            reads the daemon's configuration file, and refuses tuning flags that are out of range.
            """)

    @OptionGroup(title: "Underlay") var underlay: UnderlayFlags
    @OptionGroup(title: "Tuning") var tuning: TuningFlags

    @Option(help: ArgumentHelp("The tunnel's MTU, as it will be given to run.", valueName: "bytes"))
    var mtu: Int?

    func run() async throws {
        let findings = await onThread { MachineCheck.kernelFindings() } + (await networkFindings())
        for finding in findings { print(finding.line) }
        if findings.contains(where: { $0.outcome == .bad }) {
            throw ExitCode(ExitStatus.checkFailed.rawValue)
        }
    }

    /// The network's own port is in its configuration, which the check does not read.
    private static let usualPort = UDPBackend().port

    private func networkFindings() async -> [Finding] {
        do {
            let node = try NodeNetwork(
                options: underlay.options,
                exclusions: UnderlayExclusions(interfaceName: TunnelNameFlag.defaultName),
                health: NodeHealth(),
                logger: Logger(label: "check") { _ in SwiftLogNoOpLogHandler() })
            let chosen = try await node.chooseUnderlay()
            let tunnelMTU = try TunnelMTU.choose(
                underlayMTU: chosen.mtu, overhead: UDPBackend().overhead(over: .ipv4), configured: mtu)
            let endpoint = Endpoint(address: chosen.address, port: Check.usualPort)
            let device = TunnelNameFlag().tunName
            let (portHolder, deviceHolder) = await onThread {
                (PortHolder.name(.udp, endpoint), PortHolder.name(ofDevice: device))
            }
            return [
                Finding(
                    "underlay", .good,
                    "\(chosen.interfaceName) \(chosen.address), MTU \(chosen.mtu), which gives the "
                        + "tunnel \(tunnelMTU)"
                ), .port(endpoint, holder: portHolder), .device(device, holder: deviceHolder),
            ]
        } catch {
            return [Finding("underlay", .bad, plainWords(error))]
        }
    }
}
