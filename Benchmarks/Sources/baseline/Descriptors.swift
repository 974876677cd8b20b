import Addresses
import CMessages
import Glibc

/// A system call that failed at start: what was tried, on what, and errno.
struct SystemCallError: Error, CustomStringConvertible {
    let description: String

    init(_ attempt: String) { description = "\(attempt): \(String(cString: strerror(errno)))" }
}

/// Opens a TUN without packet information and without offloads, non-blocking.
func openTUN(name: String) throws -> Int32 {
    let descriptor = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC)
    guard descriptor >= 0 else { throw SystemCallError("open /dev/net/tun") }
    // struct ifreq (net/if.h): 16 bytes of name, then a union whose first two bytes are the flags; 40 bytes
    // in all. The struct itself is in two C modules with two definitions, which Swift refuses to import.
    var request = [UInt8](repeating: 0, count: 40)
    guard name.utf8.count < 16 else { throw SystemCallError("TUN name \(name) is longer than 15 bytes") }
    request.replaceSubrange(0..<name.utf8.count, with: name.utf8)
    let flags = UInt16(IFF_TUN | IFF_NO_PI)
    request[16] = UInt8(flags & 0xFF)
    request[17] = UInt8(flags >> 8)
    let setInterface: UInt = 0x4004_54CA  // TUNSETIFF, _IOW('T', 202, int)
    guard ioctl(descriptor, setInterface, &request) == 0 else { throw SystemCallError("make TUN \(name)") }
    return descriptor
}

/// Opens the underlay's UDP socket, non-blocking, with the buffers that flannel leaves at their defaults.
func openUDPSocket(_ local: Endpoint) throws -> Int32 {
    let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
    guard descriptor >= 0 else { throw SystemCallError("make a UDP socket") }
    var discover = Int32(IP_PMTUDISC_DO)
    setsockopt(
        descriptor, Int32(IPPROTO_IP), IP_MTU_DISCOVER, &discover, socklen_t(MemoryLayout<Int32>.size))
    var address = socketAddress(local)
    let result = withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
    }
    guard result == 0 else { throw SystemCallError("bind \(local)") }
    return descriptor
}

func socketAddress(_ endpoint: Endpoint) -> sockaddr_in {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = endpoint.port.bigEndian
    address.sin_addr.s_addr = endpoint.addressIPv4.networkBytes
    return address
}
