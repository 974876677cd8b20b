import ArgumentParser
import Node

/// `twilld cleanup`: takes away what outlives the daemon.
struct Cleanup: FlagTaking {
    static let flags = [GoFlag("status-socket")]

    static let configuration = CommandConfiguration(
        commandName: "cleanup",
        abstract: "Remove the packet filter rules that twilld or flanneld left behind.",
        discussion: """
            They stay when the daemon stops, so that pods are not cut off while it is started again. The tunnel device \
            and its routes go with the daemon. The lease stays until it expires: twilld lease release.
            """)

    @OptionGroup var socket: StatusSocketFlag

    func run() async throws {
        guard !StatusClient(socketPath: socket.statusSocket).isAnswered else {
            throw CommandFailure(
                .temporary,
                "twilld is running (\(socket.statusSocket) answers) and would put the rules back: stop it first"
            )
        }
        do {
            let removed = try PacketFilter.removeAll()
            for name in removed { print("removed \(name)") }
            if removed.isEmpty { print("nothing to remove") }
        } catch {
            throw CommandFailure(.system, "\(error)")
        }
    }
}
