import CMessages
import Glibc

/// A system call that failed: what was tried, on what, and errno.
struct SystemCallError: Error, CustomStringConvertible {
    let description: String

    init(_ attempt: String) { description = "\(attempt): \(String(cString: strerror(errno)))" }
}

/// Nanoseconds of the monotonic clock.
func nanosecondsNow() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

/// A socket that is closed with its owner.
struct Socket: ~Copyable {
    let descriptor: Int32

    enum Kind { case datagram, stream }

    init(_ kind: Kind, family: Int32 = AF_INET) throws {
        let type = kind == .datagram ? SOCK_DGRAM : SOCK_STREAM
        descriptor = socket(family, Int32(type.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw SystemCallError("make a socket") }
    }

    init(descriptor: Int32) { self.descriptor = descriptor }

    deinit { close(descriptor) }

    func bind(_ local: SocketAddress) throws {
        guard local.withPointer({ Glibc.bind(descriptor, $0, $1) }) == 0 else {
            throw SystemCallError("bind \(local)")
        }
    }

    func connect(_ remote: SocketAddress) throws {
        guard remote.withPointer({ Glibc.connect(descriptor, $0, $1) }) == 0 else {
            throw SystemCallError("connect to \(remote)")
        }
    }

    func set(_ level: Int32, _ name: Int32, _ value: Int32) {
        var value = value
        setsockopt(descriptor, level, name, &value, socklen_t(MemoryLayout<Int32>.size))
    }

    /// Returns once there is something to receive, or the time is over.
    func waitToReceive(nanoseconds: UInt64) {
        var descriptor = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        var time = timespec(
            tv_sec: Int(nanoseconds / 1_000_000_000), tv_nsec: Int(nanoseconds % 1_000_000_000))
        _ = ppoll(&descriptor, 1, &time, nil)
    }

    func setReceiveTimeout(milliseconds: Int) {
        var time = timeval(tv_sec: milliseconds / 1000, tv_usec: milliseconds % 1000 * 1000)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
    }
}
