import Addresses
import CLinux
import FoundationEssentials
import Glibc
import Health
import NIOCore
import NetworkNamespaces
import Testing

@testable import twilld

@Suite struct ProcessTests {
    @Test func theWordsAreTheKernels() {
        #expect(
            GivenWords.words(in: Array("twilld\0-v=1\0\0--iface=a b\0".utf8)) == ["-v=1", "", "--iface=a b"])
        #expect(GivenWords.words(in: Array("twilld\0".utf8)) == [])
        #expect(GivenWords.words(in: []) == [])
    }

    /// A preloaded library that puts another environment in place of the one that the kernel made, as profilers and fake
    /// clocks do. A daemon that then ran with defaults would do so with a network and a `/run` of its own.
    @Test(.enabled(if: namespacesAreExpected, "network namespaces need root and iproute2"))
    func aPreloadedLibraryHidesNoWord() throws {
        let library = "/tmp/twill-test-\(getpid())-environ.so"
        defer { unlink(library) }
        try execute(
            """
            printf '%s' 'extern char **environ; static char *none[] = {0};
            __attribute__((constructor)) static void replace(void) { environ = none; }' |
            gcc -shared -fPIC -x c - -o \(library)
            """)
        let printed = try execute(
            """
            timeout 10 unshare -n -m sh -c \
                'mount -t tmpfs run /run && LD_PRELOAD=\(library) exec \(RunningDaemon.binary) --version' 2>&1 || true
            """)
        #expect(printed == "\(Version.text)\n")
    }

    /// No error reaches an operator as Swift prints it.
    @Test func errorsAreSaidInPlainWords() {
        #expect(plainWords(IOError(errnoCode: EADDRINUSE, reason: "bind")) == "Address already in use")
        #expect(plainWords(CommandFailure(.system, "a \u{1b}b")) == "a \\u{1b}b")
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

    @Test func commandsAreGuessedByTheirLetters() {
        #expect(CommandLineWords.distance("status", "status") == 0)
        #expect(CommandLineWords.distance("statsu", "status") == 1)
        #expect(CommandLineWords.distance("", "run") == 3)
        #expect(CommandLineWords.distance("check", "chick") == 1)
    }
}
