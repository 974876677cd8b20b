import Glibc

/// Whether the daemon is there: the kernel answers that, by whether somebody listens at the daemon's status socket.
enum DaemonSocket {
    enum Answer {
        /// Somebody listens.
        case listens
        /// There is a socket and nobody behind it: the daemon was killed.
        case deserted
        /// There is no socket: another daemon has written `subnet.env`, or this one has ended as it should.
        case absent
    }

    /// Asks, and does not wait: a daemon that has more callers than it takes is there.
    static func ask(_ path: String) -> Answer {
        var name = sockaddr_un()
        name.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        let room = MemoryLayout.size(ofValue: name.sun_path)
        guard bytes.count < room else { return .absent }
        withUnsafeMutableBytes(of: &name.sun_path) { $0.copyBytes(from: bytes) }
        let descriptor = socket(
            AF_UNIX,
            Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
        guard descriptor >= 0 else { return .deserted }
        defer { close(descriptor) }
        let result = withUnsafePointer(to: &name) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        if result == 0 { return .listens }
        switch errno {
        case EAGAIN, EINPROGRESS: return .listens
        case ENOENT, ENOTDIR: return .absent
        default: return .deserted
        }
    }
}
