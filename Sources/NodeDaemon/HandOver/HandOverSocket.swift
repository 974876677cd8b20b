import Glibc
import Health

/// Where the daemon listens for one that takes over from it: beside the status socket, with `.handover` behind its name. That
/// one speaks HTTP, which carries no descriptors.
struct HandOverSocket: Sendable {
    /// What takes connections; whoever made this owns it.
    let descriptor: Int32
    private let path: String
    private let device: dev_t
    private let inode: ino_t

    static func path(beside statusSocket: String) -> String { statusSocket + ".handover" }

    /// Makes the socket. One that a daemon left behind, or that hands over to this one, is replaced: to be called by whoever
    /// has the status socket.
    ///
    /// - Returns: nil where there can be none, with the reason in `errno`.
    @available(*, noasync, message: "it blocks: use onThread")
    static func open(beside statusSocket: String) -> HandOverSocket? {
        let path = path(beside: statusSocket)
        let descriptor = unconnected()
        guard descriptor >= 0 else { return nil }
        unlink(path)
        var information = stat()
        // The name gets the socket's mode when it is bound (unix_bind_bsd in net/unix/af_unix.c).
        guard fchmod(descriptor, 0o600) == 0, call(bind, descriptor, path), listen(descriptor, 4) == 0,
            lstat(path, &information) == 0
        else {
            let code = errno
            close(descriptor)
            errno = code
            return nil
        }
        return HandOverSocket(
            descriptor: descriptor, path: path, device: information.st_dev, inode: information.st_ino)
    }

    /// Waits for a connection, which is the caller's to close; nil once the socket is removed.
    @available(*, noasync, message: "it blocks: use a thread of its own")
    func accept() -> Int32? {
        while true {
            let connection = Glibc.accept(descriptor, nil, nil)
            guard connection < 0 else {
                _ = fcntl(connection, F_SETFD, FD_CLOEXEC)
                return connection
            }
            switch errno {
            case EINTR, ECONNABORTED: continue
            case EMFILE, ENFILE, ENOMEM, ENOBUFS: usleep(100_000)
            default: return nil
            }
        }
    }

    /// Removes the name, unless it is another daemon's by now, and closes the socket.
    @available(*, noasync, message: "it blocks: use onThread")
    func remove() {
        var information = stat()
        if lstat(path, &information) == 0, information.st_dev == device, information.st_ino == inode {
            unlink(path)
        }
        // Whoever waits in accept(2) hears of this.
        shutdown(descriptor, Int32(SHUT_RDWR))
        close(descriptor)
    }

    static func unconnected() -> Int32 {
        socket(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    }

    /// Calls bind(2) or connect(2) with a path; false with `errno` where it fails.
    static func call(
        _ body: (Int32, UnsafePointer<sockaddr>?, socklen_t) -> Int32, _ descriptor: Int32, _ path: String
    ) -> Bool {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        guard path.utf8.count < MemoryLayout.size(ofValue: address.sun_path) else {
            errno = ENAMETOOLONG
            return false
        }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(path.utf8)) }
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                body(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        } == 0
    }
}
