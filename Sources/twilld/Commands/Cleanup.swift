import ArgumentParser
import Host
import Node
import NodeDaemon

/// `twilld cleanup`: takes away what outlives the daemon.
struct Cleanup: FlagTaking {
    static let flags =
        StatusSocketFlag.flags + TunnelNameFlag.flags
        + [GoFlag("subnet-file"), GoFlag("cni", .boolean), GoFlag("cni-bridge")]

    static let configuration = CommandConfiguration(
        commandName: "cleanup",
        abstract: "Remove what twilld or flanneld left behind on this node.",
        discussion: """
            Packet filter rules, the tunnel device with its routes, the blackhole route and subnet.env stay when the daemon \
            stops, so that pods are not cut off while it is started again, and nothing takes another way. They are removed \
            here. While a twilld or flanneld runs that uses these things, nothing is removed. The \
            rules are those of the device that --tun-name names. The lease stays until it ends (twilld lease release), and this node's identity \
            (--state-dir) stays for good.

            With --cni only the bridge that pods are on is removed, also while a twilld runs: the next pod that is \
            started gets a new one, and those that were on it must be made anew. A bridge whose addresses are all of \
            the subnet in subnet.env is in order, and stays.
            """)

    @OptionGroup var socket: StatusSocketFlag
    @OptionGroup var configurationFile: ConfigurationFileFlag
    @OptionGroup var device: TunnelNameFlag

    @Option(help: ArgumentHelp("File that the daemon wrote.", valueName: "file"), completion: .file())
    var subnetFile = SubnetFile.defaultPath

    @Option(
        help: ArgumentHelp(
            "Remove the pods' bridge, which keeps an old address when the subnet changed, and nothing else.",
            valueName: "bool"))
    var cni = false

    @Option(help: ArgumentHelp("The bridge, where the CNI list names another one.", valueName: "name"))
    var cniBridge = ContainerNetworkList.defaultBridgeName

    @Flag(help: "Print what was removed as JSON.")
    var json = false

    func run() async throws { try await onThread { cni ? try removeBridge() : try cleanUp() } }

    @available(*, noasync, message: "it blocks: use onThread")
    private func cleanUp() throws {
        guard try !StatusClient(socketPath: socket.statusSocket).isListenedTo() else {
            throw ExitFailure(
                .temporary,
                "twilld is running (it listens at \(socket.statusSocket)) and would put everything back: stop it first"
            )
        }
        let leftovers = Leftovers(
            interfaceName: device.tunName, subnetFile: subnetFile, statusSocket: socket.statusSocket)
        let owner: String?
        do { owner = try leftovers.owner() } catch { throw ExitFailure(.system, "cannot look: \(error)") }
        if let owner {
            throw ExitFailure(
                .temporary,
                "\(owner), and removing what it uses would cut pods off: stop it first; nothing was removed")
        }
        let outcome = leftovers.remove()
        if json {
            try printDocument(
                CleanupDocument(
                    removed: outcome.removed, failures: outcome.failures,
                    keptLease: outcome.subnet.map { "\($0)" }))
        } else {
            tell(outcome)
        }
        guard outcome.failures.isEmpty else {
            throw ExitFailure(.system, "not removed: " + outcome.failures.joined(separator: "; "))
        }
    }

    private func tell(_ outcome: Leftovers.Outcome) {
        for name in outcome.removed { print("removed \(name)") }
        if outcome.removed.isEmpty && outcome.failures.isEmpty { print("nothing to remove") }
        if let subnet = outcome.subnet {
            print("kept the lease of \(subnet), if there is one: twilld lease release \(subnet)")
        }
    }

    private func removeBridge() throws {
        let removal: PodBridge.Removal
        do {
            let values = try SubnetFileValues(path: subnetFile)
            removal = try PodBridge.remove(cniBridge, unlessOf: values?.pods ?? [])
        } catch {
            throw ExitFailure(.system, "\(cniBridge) is not removed: \(error)")
        }
        switch removal {
        case .missing:
            guard !json else { return try printDocument(CleanupDocument()) }
            print("nothing to remove: there is no \(cniBridge)")
        case .inUse(let addresses):
            throw ExitFailure(
                .temporary,
                "\(cniBridge) has \(addresses), of this node's subnet in \(subnetFile): nothing is wrong with it, and it "
                    + "was not removed")
        case .removed(let addresses, let podCount):
            guard !json else {
                return try printDocument(
                    CleanupDocument(
                        removed: ["bridge \(cniBridge) (\(addresses))"], podsWithoutNetwork: podCount))
            }
            print("removed bridge \(cniBridge) (\(addresses)); the next pod that is started makes it anew")
            if podCount > 0 {
                print(
                    "\(podCount) interfaces of pods were on it: these pods have no network until they are made anew "
                        + "(kubectl delete pod)")
            }
        }
    }
}

/// What `twilld cleanup --json` prints.
private struct CleanupDocument: Encodable {
    let schema = 1
    var removed: [String] = []
    /// What is there still, and why.
    var failures: [String] = []
    /// The subnet that `subnet.env` named, whose lease stays.
    var keptLease: String?
    /// Interfaces of pods that were on the bridge.
    var podsWithoutNetwork: Int?
}
