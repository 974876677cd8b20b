import CLinux
import FoundationEssentials
import Glibc
import Synchronization

/// A small stand-in for systemd and one service of it: keeps the descriptors that the service gives it (FDSTORE), gives
/// them to the service's next process, and starts that as soon as the one before has ended, however it did.
public enum ServiceKeeper {
    /// Runs a service until SIGTERM comes, which ends it too. For a program of its own: nothing else may wait for children.
    ///
    /// - Parameters:
    ///   - socket: the path of the socket that the service is told of by `NOTIFY_SOCKET`.
    ///   - command: its words.
    /// - Returns: the exit status of the service's last process.
    public static func run(socket path: String, _ command: [String]) -> Int32 {
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
            var status: Int32 = 0
            while waitpid(process, &status, WNOHANG) == 0 { takeNotices(notify, &kept, milliseconds: 2) }
            // What it said last.
            takeNotices(notify, &kept, milliseconds: 0)
            if isStopped.load(ordering: .relaxed) { return status >> 8 & 0xFF }
        }
    }

    private static let isStopped = Atomic<Bool>(false)
    private static let child = Atomic<Int32>(0)

    private static func spawn(_ command: [String], _ kept: [(name: String, descriptor: Int32)]) -> pid_t? {
        setenv("LISTEN_FDS", "\(kept.count)", 1)
        setenv("LISTEN_FDNAMES", kept.map(\.name).joined(separator: ":"), 1)
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        // First to where no target is, so that none is overwritten before it was copied.
        var high: [Int32] = []
        for (_, descriptor) in kept { high.append(fcntl(descriptor, F_DUPFD_CLOEXEC, 200)) }
        defer { for descriptor in high { close(descriptor) } }
        for (offset, descriptor) in high.enumerated() {
            posix_spawn_file_actions_adddup2(&actions, descriptor, Int32(3 + offset))
        }
        // The number that the shell has is the service's.
        let words = ["/bin/sh", "-c", #"export LISTEN_PID=$$; exec "$@""#, "sh"] + command
        var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
        defer { for argument in arguments { free(argument) } }
        var process = pid_t()
        let result = posix_spawn(&process, words[0], &actions, nil, &arguments, twill_environment())
        return result == 0 ? process : nil
    }

    private static func takeNotices(
        _ socket: Int32, _ kept: inout [(name: String, descriptor: Int32)], milliseconds: Int32
    ) {
        var entry = pollfd(fd: socket, events: Int16(POLLIN), revents: 0)
        while poll(&entry, 1, milliseconds) > 0 {
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
