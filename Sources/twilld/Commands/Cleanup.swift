import ArgumentParser
import Host
import Node
import NodeDaemon

/// `twilld cleanup`: takes away what outlives the daemon.
struct Cleanup: FlagTaking {
    static let flags = StatusSocketFlag.flags + TunnelNameFlag.flags + [GoFlag("subnet-file")]

    static let configuration = CommandConfiguration(
        commandName: "cleanup",
        abstract: "Remove what twilld or flanneld left behind on this node.",
        discussion: """
            Packet filter rules, the blackhole route and subnet.env stay when the daemon stops, so that pods are not \
            cut off while it is started again. The tunnel device and its routes go with the daemon; one that was made \
            persistent is removed here. While a twilld or flanneld runs that uses these things, nothing is removed. The \
            rules are those of the device that --tun-name names. The lease stays until it ends (twilld lease release), and this node's identity \
            (--state-dir) stays for good.
            """)

    @OptionGroup var socket: StatusSocketFlag
    @OptionGroup var device: TunnelNameFlag

    @Option(help: ArgumentHelp("File that the daemon wrote.", valueName: "file"), completion: .file())
    var subnetFile = SubnetFile.defaultPath

    func run() async throws { try await onThread { try cleanUp() } }

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
        for name in outcome.removed { print("removed \(name)") }
        if outcome.removed.isEmpty && outcome.failures.isEmpty { print("nothing to remove") }
        if let subnet = outcome.subnet {
            print("kept the lease of \(subnet), if there is one: twilld lease release \(subnet)")
        }
        guard outcome.failures.isEmpty else {
            throw ExitFailure(.system, "not removed: " + outcome.failures.joined(separator: "; "))
        }
    }
}
