import Glibc
import NetworkNamespaces
import NodeDaemon
import Testing

@testable import twilld

@Suite struct GivenWordsTests {
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
}
