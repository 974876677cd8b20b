import FoundationEssentials
import Glibc

/// The directory of a lab, locked for as long as its process lives, so that others can tell that nobody needs it any
/// more.
final class LabDirectory: Sendable {
    private static let parent = "/tmp"
    private static let prefix = "twill-lab-"
    /// The lock of a directory that is older than this is held, or its lab is gone.
    private static let lockSeconds = 60

    /// Where it is.
    let path: String
    private let lock: Int32

    /// Makes a directory, and takes away those whose labs are gone.
    init() throws {
        path = "\(Self.parent)/\(Self.prefix)\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        lock = Self.open(path)
        flock(lock, LOCK_EX | LOCK_NB)
        Self.removeAbandoned()
    }

    deinit {
        try? FileManager.default.removeItem(atPath: path)
        close(lock)
    }

    private static func open(_ path: String) -> Int32 {
        Glibc.open(path + "/lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    }

    /// A process that was killed could take nothing down. What it started writes to files of its directory, and is
    /// known by that.
    private static func removeAbandoned() {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: parent)) ?? []
        for name in names where name.hasPrefix(prefix) {
            let path = "\(parent)/\(name)"
            var attributes = stat()
            guard stat(path + "/lock", &attributes) == 0,
                attributes.st_ctim.tv_sec + lockSeconds < time(nil)
            else { continue }
            let lock = open(path)
            defer { close(lock) }
            guard flock(lock, LOCK_EX | LOCK_NB) == 0 else { continue }
            for process in processes(thatWriteBelow: path) { kill(process, SIGKILL) }
            try? FileManager.default.removeItem(atPath: path)
        }
    }

    private static func processes(thatWriteBelow path: String) -> [pid_t] {
        let numbers = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        return numbers.compactMap { pid_t($0) }.filter { process in
            [STDOUT_FILENO, STDERR_FILENO].contains { descriptor in
                let file = try? FileManager.default.destinationOfSymbolicLink(
                    atPath: "/proc/\(process)/fd/\(descriptor)")
                return file?.hasPrefix(path + "/") == true
            }
        }
    }
}

extension Lab {
    /// Copies what the lab's processes wrote to a directory, for somebody who looks for a failure's cause.
    ///
    /// - Parameter path: what is there goes.
    public func keep(at path: String) throws {
        try? FileManager.default.removeItem(atPath: path)
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        for name in try FileManager.default.subpathsOfDirectory(atPath: directory) {
            // The store's data is large; what is in it is asked of it while it runs.
            let parts = name.split(separator: "/")
            guard parts.first != "etcd", let file = parts.last, !file.hasSuffix(".socket") else { continue }
            let text = directory + "/" + name
            var attributes = stat()
            guard lstat(text, &attributes) == 0, attributes.st_mode & S_IFMT == S_IFREG,
                attributes.st_mode & S_IXUSR == 0
            else { continue }
            try? FileManager.default.copyItem(
                atPath: text, toPath: path + "/" + parts.joined(separator: "-"))
        }
    }
}
