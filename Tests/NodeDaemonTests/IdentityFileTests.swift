import Addresses
import FoundationEssentials
import Glibc
import Leases
import Testing

@testable import NodeDaemon

@Suite struct IdentityFileTests {
    private let directory = "/tmp/twill-test-identity-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
    private var state: String { directory + "/state" }

    private func remove() { try? FileManager.default.removeItem(atPath: directory) }

    private func write(_ text: String, to name: String = "identity") throws {
        try Data(text.utf8).write(to: URL(filePath: state + "/" + name))
    }

    private func read(_ name: String) -> String {
        (try? String(contentsOfFile: state + "/" + name, encoding: .utf8)) ?? ""
    }

    @Test func itIsMadeOnceAndKept() throws {
        defer { remove() }
        let first = try IdentityFile.identity(in: state)
        let second = try IdentityFile.identity(in: state)
        let other = try IdentityFile.identity(in: directory + "/other")
        #expect(first.identity == second.identity && first.problem == nil && second.problem == nil)
        #expect(first.identity != other.identity)
        // One line, which is what every release reads; for this user alone.
        #expect(read("identity") == "\(first.identity)\n")
        var status = stat()
        #expect(stat(state + "/identity", &status) == 0 && status.st_mode & 0o777 == 0o600)
        #expect(try FileManager.default.contentsOfDirectory(atPath: state) == ["identity"])
    }

    @Test(arguments: [
        "", "12", "\n", "garbage!", "00000000", String(repeating: "\0", count: 9),
        String(repeating: "a", count: 100_000),
        "abcdefgh\n",
    ])
    func whatIsNoIdentityIsSaidAndReplaced(text: String) throws {
        defer { remove() }
        _ = try IdentityFile.identity(in: state)
        try write(text)
        let healed = try IdentityFile.identity(in: state)
        #expect(healed.problem?.cause.contains(state + "/identity") == true)
        let again = try IdentityFile.identity(in: state)
        #expect(again.identity == healed.identity && again.problem == nil)
    }

    @Test(arguments: ["mkdir", "mkfifo", "ln -s /nowhere/at/all", "ln -s ../loop"])
    func whatIsNoFileIsReplaced(command: String) throws {
        defer { remove() }
        _ = try IdentityFile.identity(in: state)
        let path = state + "/identity"
        unlink(path)
        switch command {
        case "mkdir": #expect(mkdir(path, 0o700) == 0)
        case "mkfifo": #expect(mkfifo(path, 0o600) == 0)
        case "ln -s ../loop": #expect(symlink(path, path) == 0)
        default: #expect(symlink("/nowhere/at/all", path) == 0)
        }
        let healed = try IdentityFile.identity(in: state)
        #expect(try IdentityFile.identity(in: state).identity == healed.identity)
        #expect(command == "ln -s /nowhere/at/all" || healed.problem != nil)
    }

    @Test func moreLinesAreOfLaterReleases() throws {
        defer { remove() }
        _ = try IdentityFile.identity(in: state)
        try write("000000ab\nsomething=else\n")
        let kept = try IdentityFile.identity(in: state)
        #expect(kept.identity == NodeIdentity(number: 0xAB) && kept.problem == nil)
    }

    @Test func whatCannotBeReadIsNoReasonForAnotherIdentity() throws {
        // A file of the kernel's that answers reads with EINVAL or EIO: root may open everything.
        let failure = #expect(throws: ExitFailure.self) {
            try IdentityFile.identity(in: "/proc/self/mem/x")
        }
        #expect(failure?.message.contains("/proc/self/mem/x/identity") == true)
        defer { remove() }
        try FileManager.default.createDirectory(atPath: state, withIntermediateDirectories: true)
        #expect(symlink("/proc/self/mem", state + "/identity") == 0)
        let unreadable = #expect(throws: ExitFailure.self) { try IdentityFile.identity(in: state) }
        #expect(unreadable?.message.contains("can't be read") == true)
        #expect(unreadable?.message.contains("Input/output error") == true)
    }

    @Test func aDirectoryThatCannotBeMadeIsNamed() {
        let failure = #expect(throws: ExitFailure.self) { try IdentityFile.identity(in: "/proc/nowhere") }
        #expect(failure?.status == .configuration)
        #expect(failure?.message.contains("/proc/nowhere/identity") == true)
        #expect(failure?.message.contains("--state-dir") == true)
    }

    @Test func aCopyOnAnotherMachineGetsAnotherIdentity() throws {
        defer { remove() }
        let original = IdentityFile.Machine(numbers: ["aa", "1-2"], address: .v4(IPv4Address("172.20.0.1")!))
        let first = try IdentityFile.identity(in: state)
        func confirmed(_ numbers: [String], _ address: String) throws -> IdentityFile.Kept {
            try IdentityFile.confirmed(
                try IdentityFile.identity(in: state), in: state,
                machine: .init(numbers: numbers, address: .v4(IPv4Address(address)!)))
        }
        #expect(try confirmed(original.numbers, "172.20.0.1").identity == first.identity)
        // Another address alone, another number alone, numbers that cannot be read: the same node.
        #expect(try confirmed(["aa", "1-2"], "172.20.0.9").identity == first.identity)
        #expect(try confirmed(["bb", "1-2"], "172.20.0.9").identity == first.identity)
        #expect(try confirmed(["", ""], "172.20.0.1").identity == first.identity)
        #expect(try confirmed(["bb", "1-2"], "172.20.0.1").identity == first.identity)
        // Either number with another address: a copy, said once, with another identity from then on.
        for numbers in [["cc", "1-2"], ["cc", "3-4"]] {
            let before = try IdentityFile.identity(in: state).identity
            let address = numbers[1] == "1-2" ? "172.20.0.2" : "172.20.0.3"
            let copy = try confirmed(numbers, address)
            #expect(copy.identity != before)
            #expect(copy.problem?.cause.contains("is a copy of that of") == true)
            let again = try confirmed(numbers, address)
            #expect(again.identity == copy.identity && again.problem == nil)
        }
        // What another release made of the identity since, or damage, says nothing.
        try write("000000ab\n")
        #expect(try confirmed(["zz", "zz"], "172.20.0.7").identity.number == 0xAB)
        try write("garbage", to: "machine")
        #expect(try confirmed(["yy", "yy"], "172.20.0.8").identity.number == 0xAB)
    }
}
