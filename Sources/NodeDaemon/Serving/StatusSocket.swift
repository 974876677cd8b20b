import CLinux
import FoundationEssentials
import Glibc

/// The name in the file system under which the daemon answers `twilld status`.
///
/// It is made with its permissions, beside its place, and listening, and then moved there: at no moment can others
/// connect to it, and whoever finds the name is answered.
struct StatusSocket: Sendable {
    /// What takes connections; whoever made this owns it.
    let descriptor: Int32
    private let path: String
    private let device: dev_t
    private let inode: ino_t

    /// Another daemon answers there.
    struct Held: Error, Equatable {
        /// Its process; nil where it is too busy to say.
        var processIdentifier: Int32?
    }

    /// sun_path holds 108 bytes, the last of which is zero.
    private static let pathLimitBytes = 107
    /// How many connections wait to be taken.
    private static let backlog: Int32 = 16
    /// How long another start at the same place is waited for.
    private static let lockPatience = Duration.seconds(1)

    /// Makes the socket; blocks for milliseconds. One that a daemon left behind when it was killed is replaced; one
    /// that takes connections is another daemon's, however long that one needs to answer.
    ///
    /// - Parameter isReplacing: whether another daemon's is replaced all the same, which has handed over to this one.
    @available(*, noasync, message: "it blocks: use onThread")
    static func open(at path: String, replacing isReplacing: Bool = false) throws -> StatusSocket {
        guard path.utf8.count <= pathLimitBytes else {
            throw ExitFailure(
                .usage,
                "--status-socket is longer than a unix socket's path can be (\(pathLimitBytes) bytes): "
                    + "\(path)"
            )
        }
        let directory = path.lastIndex(of: "/").map { String(path[..<$0]) + "/" } ?? "./"
        do {
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        } catch {
            throw failure(path, plainWords(error))
        }
        let lock = locked(directory)
        defer { if lock >= 0 { close(lock) } }
        if !isReplacing { try refuseWhatIsInUse(path) }
        return try make(path, in: directory)
    }

    /// Removes the name, unless it is another daemon's by now.
    @available(*, noasync, message: "it blocks: use onThread")
    func removeName() {
        var information = stat()
        guard lstat(path, &information) == 0, information.st_dev == device, information.st_ino == inode else {
            return
        }
        unlink(path)
    }

    /// Who listens at `path`: nil where nobody does.
    ///
    /// - Throws: `ExitFailure` where that can't be found out.
    @available(*, noasync, message: "it blocks: use onThread")
    static func holder(of path: String) throws(ExitFailure) -> Held? {
        let client = StatusClient(socketPath: path)
        let descriptor = try client.unconnectedSocket()
        defer { close(descriptor) }
        if try client.connect(descriptor) {
            // struct ucred (unix(7)): process, user, group. They are those of the call of listen(2).
            var credentials: [Int32] = [0, 0, 0]
            var size = socklen_t(clamping: credentials.count * MemoryLayout<Int32>.size)
            let isKnown = getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0
            return Held(processIdentifier: isKnown && credentials[0] > 0 ? credentials[0] : nil)
        }
        switch errno {
        case ENOENT, ECONNREFUSED: return nil
        // More connections wait to be taken than may.
        case EAGAIN: return Held(processIdentifier: nil)
        case let code:
            throw ExitFailure(
                .temporary,
                "who listens at \(path) can't be found out: \(systemWords(code)); choose another "
                    + "--status-socket"
            )
        }
    }

    /// The lock of the directory, which two daemons that start at once take in turn; -1 where it can't be had, which
    /// leaves the name to the last of them.
    private static func locked(_ directory: String) -> Int32 {
        let descriptor = Glibc.open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { return -1 }
        let limit = ContinuousClock.now + lockPatience
        while flock(descriptor, LOCK_EX | LOCK_NB) != 0, ContinuousClock.now < limit { usleep(10_000) }
        return descriptor
    }

    private static func refuseWhatIsInUse(_ path: String) throws {
        var information = stat()
        guard lstat(path, &information) == 0 else { return }
        guard information.st_mode & S_IFMT == S_IFSOCK else {
            throw failure(path, "there is a file of that name that is no socket")
        }
        if let held = try holder(of: path) { throw held }
    }

    private static func make(_ path: String, in directory: String) throws -> StatusSocket {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw failure(path, systemWords(errno)) }
        func fail(_ code: Int32) -> ExitFailure {
            close(descriptor)
            return failure(path, systemWords(code))
        }
        // What it tells is for the node's administrators: addresses of all nodes among it. The name gets the mode
        // that the socket has when it is bound (unix_bind_bsd in net/unix/af_unix.c).
        guard fchmod(descriptor, 0o600) == 0 else { throw fail(errno) }
        // As long as the name itself, which fits.
        let length = min(12, path.utf8.count - (directory == "./" ? 0 : directory.utf8.count))
        guard length > 0 else { throw fail(EISDIR) }
        let letters = Array("abcdefghijklmnopqrstuvwxyz0123456789")
        var temporary = ""
        var attempts = 16
        repeat {
            attempts -= 1
            temporary = directory + String((0..<length).map { _ in letters[Int.random(in: letters.indices)] })
            guard bind(descriptor, to: temporary) != 0 else { break }
            guard errno == EADDRINUSE, attempts > 0 else { throw fail(errno) }
        } while true
        var information = stat()
        guard listen(descriptor, backlog) == 0, lstat(temporary, &information) == 0,
            rename(temporary, path) == 0
        else {
            let code = errno
            unlink(temporary)
            throw fail(code)
        }
        return StatusSocket(
            descriptor: descriptor, path: path, device: information.st_dev, inode: information.st_ino)
    }

    private static func bind(_ descriptor: Int32, to path: String) -> Int32 {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) {
            $0.copyBytes(from: Array(path.utf8.prefix(pathLimitBytes)))
        }
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
    }

    private static func failure(_ path: String, _ reason: String) -> ExitFailure {
        ExitFailure(
            .configuration,
            "the status socket \(path) can't be made: \(reason); choose another --status-socket")
    }
}
