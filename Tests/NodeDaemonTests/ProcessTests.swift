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
