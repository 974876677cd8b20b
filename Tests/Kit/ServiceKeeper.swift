import CLinux
import CServiceKeeper
import FoundationEssentials
import Glibc
import Synchronization

/// A small stand-in for systemd and one service of it: keeps the descriptors that the service gives it (FDSTORE), gives
/// them to the service's next process, and starts that as soon as the one before has ended, however it did.
public enum ServiceKeeper {
    /// The words before a daemon's own with which this program keeps it, where its `main` calls `runIfAsked`.
    ///
    /// - Parameter socket: the path of the socket that the service is told of by `NOTIFY_SOCKET`.
    public static func words(socket: String) -> String { "\(CommandLine.arguments[0]) --keep \(socket)" }

    /// Where this process was started with `words`, keeps the service until its end, and ends with its status.
    public static func runIfAsked() {
        let words = CommandLine.arguments.dropFirst()
        guard words.first == "--keep", let socket = words.dropFirst().first else { return }
        exit(run(socket: socket, Array(words.dropFirst(2))))
    }

    /// Runs a service until SIGTERM comes, which ends it too. For a program of its own: nothing else may wait for children.
    ///
    /// - Parameters:
    ///   - socket: the path of the socket that the service is told of by `NOTIFY_SOCKET`.
    ///   - command: its words.
    /// - Returns: the exit status of the service's last process.
    private static func run(socket path: String, _ command: [String]) -> Int32 {
        let notify = Glibc.socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(path.utf8)) }
        unlink(path)
        let bound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(notify, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard bound == 0 else { return 1 }
        isStopped.store(false, ordering: .relaxed)
        Glibc.signal(SIGTERM) { _ in
            ServiceKeeper.isStopped.store(true, ordering: .relaxed)
            let child = ServiceKeeper.child.load(ordering: .relaxed)
            if child > 1 { kill(child, SIGTERM) }
        }
        setenv("NOTIFY_SOCKET", path, 1)
        var kept: [(name: String, descriptor: Int32)] = []
        while true {
            guard let process = spawn(command, kept) else { return 1 }
            child.store(process, ordering: .relaxed)
            let status = waitForEnd(of: process, notify, &kept)
            // What it said last.
            takeNotices(notify, &kept)
            if isStopped.load(ordering: .relaxed) { return status >> 8 & 0xFF }
        }
    }

    private static let isStopped = Atomic<Bool>(false)
    private static let child = Atomic<Int32>(0)

    /// Takes the service's notices until its process has ended, and gives what waitpid(2) says of that.
    private static func waitForEnd(
        of process: pid_t, _ notify: Int32, _ kept: inout [(name: String, descriptor: Int32)]
    ) -> Int32 {
        let ended = open_process(process)
        defer { close(ended) }
        var status: Int32 = 0
        while waitpid(process, &status, WNOHANG) == 0 {
            var entries = [notify, ended].map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            poll(&entries, 2, -1)
            takeNotices(notify, &kept)
        }
        return status
    }

    /// Starts the service's process as systemd does: without a shell between, whose start packets would wait for.
    private static func spawn(_ command: [String], _ kept: [(name: String, descriptor: Int32)]) -> pid_t? {
        // First to where no target is, so that none is overwritten before it was copied.
        let high = kept.map { fcntl($0.descriptor, F_DUPFD_CLOEXEC, 200) }
        defer { for descriptor in high { close(descriptor) } }
        let ownNumber = "LISTEN_PID=0000000000"
        let names = kept.map(\.name).joined(separator: ":")
        let others = ProcessInfo.processInfo.environment.filter { !$0.key.hasPrefix("LISTEN_") }
        let environment =
            [ownNumber, "LISTEN_FDS=\(kept.count)", "LISTEN_FDNAMES=\(names)"]
            + others.map { "\($0.key)=\($0.value)" }
        var words: [UnsafeMutablePointer<CChar>?] = command.map { strdup($0) } + [nil]
        var entries: [UnsafeMutablePointer<CChar>?] = environment.map { strdup($0) } + [nil]
        defer { for text in words + entries { free(text) } }
        let process = start_service(words[0], &words, &entries, entries[0], high, Int32(high.count))
        return process > 0 ? process : nil
    }

    private static func takeNotices(
        _ socket: Int32, _ kept: inout [(name: String, descriptor: Int32)]
    ) {
        var entry = pollfd(fd: socket, events: Int16(POLLIN), revents: 0)
        while poll(&entry, 1, 0) > 0 {
            var bytes = [UInt8](repeating: 0, count: 8192)
            var descriptors = [Int32](repeating: -1, count: Int(TWILL_DESCRIPTORS_AT_ONCE))
            var count: UInt32 = 0
            let length = twill_receive_descriptors(socket, &bytes, bytes.count, &descriptors, &count)
            guard length > 0 else { continue }
            let lines = String(decoding: bytes[..<length], as: UTF8.self).split(separator: "\n")
            let name = lines.first { $0.hasPrefix("FDNAME=") }.map { String($0.dropFirst(7)) } ?? "stored"
            if lines.contains("FDSTORE=1") {
                for descriptor in descriptors.prefix(Int(count)) { kept.append((name, descriptor)) }
            } else {
                for descriptor in descriptors.prefix(Int(count)) { close(descriptor) }
            }
            if lines.contains("FDSTOREREMOVE=1") {
                for (other, descriptor) in kept where other == name { close(descriptor) }
                kept.removeAll { $0.name == name }
            }
        }
    }
}
