import Addresses
import CLinux
import FoundationEssentials
import Glibc
import Health
import NIOCore
import Testing

@testable import NodeDaemon

@Suite struct ProcessTests {
    /// No error reaches an operator as Swift prints it.
    @Test func errorsAreSaidInPlainWords() {
        #expect(plainWords(IOError(errnoCode: EADDRINUSE, reason: "bind")) == "Address already in use")
        #expect(plainWords(ExitFailure(.system, "a \u{1b}b")) == "a \\u{1b}b")
        #expect(plainWords(CancellationError()) == "it was stopped")
        #expect(plainWords(POSIXError(.ENOSPC)) == "No space left on device")
        func words(_ body: () throws -> Void) -> String {
            do { try body() } catch { return plainWords(error) }
            return ""
        }
        #expect(
            words { _ = try Data(contentsOf: URL(filePath: "/nowhere/at/all")) }
                == "No such file or directory")
        #expect(
            words {
                try FileManager.default.createDirectory(
                    atPath: "/proc/x/y", withIntermediateDirectories: true)
            }
                == "No such file or directory")
        #expect(words { _ = try JSONDecoder().decode(Int.self, from: Data("[".utf8)) } != "")
        #expect(!words { _ = try JSONDecoder().decode(Int.self, from: Data("[".utf8)) }.contains("Decoding"))
        // No name server is asked for what is no name.
        let name = words { _ = try SocketAddress.makeAddressResolvingHost("a..b", port: 1) }
        #expect(name.contains("no address for \"a..b\"") && !name.contains("SocketAddressError"))
    }

    /// As /proc/net/udp and /proc/net/udp6 have it.
    private let table = """
          sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
          7: 010200C0:205D 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1111 2 0 0
          8: 00000000:205E 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 2222 2 0 0
          9: 00000000000000000000000000000000:205D 0:0 0A 00000000:00000000 00:00000000 00000000     0        0 3333 2 0 0
         10: garbage
         11: 010200C0:205D
        """

    @Test func thePortsHolderIsFoundByItsSocket() {
        func inodes(_ address: IPv4Address, _ port: UInt16, isTCP: Bool = false) -> [String] {
            PortHolder.inodes(in: table, isTCP: isTCP, Endpoint(address: address, port: port))
        }
        #expect(inodes(IPv4Address(192, 0, 2, 1), 8285) == ["1111", "3333"])
        #expect(inodes(IPv4Address(192, 0, 2, 9), 8285) == ["3333"])
        #expect(inodes(IPv4Address(192, 0, 2, 9), 8286) == ["2222"])
        #expect(inodes(IPv4Address(0, 0, 0, 0), 8285) == ["1111", "3333"])
        #expect(inodes(IPv4Address(192, 0, 2, 1), 8285, isTCP: true) == ["3333"])
        #expect(inodes(IPv4Address(192, 0, 2, 1), 8287).isEmpty)
    }

    @Test func aRealHolderIsNamed() {
        let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                #expect(bind(descriptor, $0, size) == 0)
                #expect(getsockname(descriptor, $0, &size) == 0)
            }
        }
        let endpoint = Endpoint(address: IPv4Address(127, 0, 0, 1), port: UInt16(bigEndian: address.sin_port))
        #expect(PortHolder.name(.udp, endpoint)?.contains("(process \(getpid()))") == true)
    }

    @Test func openFilesNearTheLimitAreSaid() {
        #expect(DescriptorLimit.problem(open: 50, limit: 1024) == nil)
        #expect(DescriptorLimit.problem(open: 950, limit: 1024)?.cause.contains("950 of 1024") == true)
        #expect(DescriptorLimit.problem(open: 88, limit: 99) == nil)
        #expect(DescriptorLimit.problem(open: 90, limit: 99)?.cause.contains("90 of 99") == true)
        #expect(DescriptorLimit.problem(open: nil, limit: 1024)?.cause.contains("all of 1024") == true)
        #expect((DescriptorLimit.open ?? 0) > 2)
        #expect(DescriptorLimit.current > 2)
    }
}
