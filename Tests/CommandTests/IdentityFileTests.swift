import FoundationEssentials
import Glibc
import Testing

@testable import twilld

@Suite struct IdentityFileTests {
    private let directory = "/tmp/twill-test-identity-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"

    @Test func itIsMadeOnceAndKept() throws {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let first = try IdentityFile.identity(in: directory + "/state")
        let second = try IdentityFile.identity(in: directory + "/state")
        let other = try IdentityFile.identity(in: directory + "/other")
        #expect(first == second)
        #expect(first != other)
        // What is no identity is replaced: a file cut short by a full disk must not keep the node from starting.
        try Data("12".utf8).write(to: URL(filePath: directory + "/state/identity"))
        let third = try IdentityFile.identity(in: directory + "/state")
        #expect(try third == IdentityFile.identity(in: directory + "/state"))
    }

    @Test func aDirectoryThatCannotBeMadeIsNamed() {
        let failure = #expect(throws: CommandFailure.self) { try IdentityFile.identity(in: "/proc/nowhere") }
        #expect(failure?.status == .configuration)
        #expect(failure?.message.contains("/proc/nowhere/identity") == true)
        #expect(failure?.message.contains("--state-dir") == true)
    }
}
