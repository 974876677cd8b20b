import Glibc

/// The calling thread's number, by which ip(8) finds its network namespace.
public func threadID() -> Int32 {
    // `/proc/thread-self` is a link to `PID/task/TID`.
    var target = [CChar](repeating: 0, count: 64)
    let count = readlink("/proc/thread-self", &target, target.count)
    let text = String(decoding: target.prefix(max(0, count)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    return text.split(separator: "/").last.flatMap { Int32($0) } ?? 0
}

/// A UDP socket that says where datagrams come from.
public final class DatagramReceiver: Sendable {
    /// The port that it is bound to, on every address.
    public let port: UInt16
    private let descriptor: Int32

    /// Opens the socket in the network namespace of the calling thread.
    public init() throws {
        let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        self.descriptor = descriptor
        var timeout = timeval(tv_sec: 20, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        var name = sockaddr_in()
        name.sin_family = sa_family_t(AF_INET)
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let result = withUnsafeMutablePointer(to: &name) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, size) | getsockname(descriptor, $0, &size)
            }
        }
        guard result == 0 else { throw DatagramFailure(call: "bind", code: errno) }
        port = UInt16(bigEndian: name.sin_port)
    }

    deinit { close(descriptor) }

    /// Waits for a datagram and gives its sender's address.
    public func nextSender() throws -> String {
        var name = sockaddr_in()
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        var byte: UInt8 = 0
        let count = withUnsafeMutablePointer(to: &name) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                recvfrom(descriptor, &byte, 1, 0, $0, &size)
            }
        }
        guard count == 1 else { throw DatagramFailure(call: "recvfrom", code: errno) }
        let bits = UInt32(bigEndian: name.sin_addr.s_addr)
        return stride(from: 24, through: 0, by: -8).map { "\(bits >> UInt32($0) & 0xFF)" }.joined(
            separator: ".")
    }
}

/// A UDP socket that sends to anybody.
public final class DatagramSender: Sendable {
    private let descriptor: Int32

    /// Opens the socket in the network namespace of the calling thread.
    public init() throws {
        descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw DatagramFailure(call: "socket", code: errno) }
    }

    deinit { close(descriptor) }

    /// Sends zeros. The kernel refuses what is larger than it knows the path to carry; that is no failure here.
    public func send(to address: String, port: UInt16, byteCount: Int = 1) throws {
        var name = sockaddr_in()
        name.sin_family = sa_family_t(AF_INET)
        name.sin_port = port.bigEndian
        guard inet_pton(AF_INET, address, &name.sin_addr) == 1 else {
            throw DatagramFailure(call: "inet_pton \(address)", code: EINVAL)
        }
        let bytes = [UInt8](repeating: 0, count: byteCount)
        let count = withUnsafeMutablePointer(to: &name) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                sendto(descriptor, bytes, byteCount, 0, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard count == byteCount || errno == EMSGSIZE else {
            throw DatagramFailure(call: "sendto \(address)", code: errno)
        }
    }
}

/// A call on such a socket failed.
public struct DatagramFailure: Error, CustomStringConvertible {
    /// The call and its error.
    public let description: String
    init(call: String, code: Int32) { description = "\(call): \(String(cString: strerror(code)))" }
}
