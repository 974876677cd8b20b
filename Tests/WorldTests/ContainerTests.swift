import Glibc
import Kit
import NetworkNamespaces
import Testing

/// What a container without privilege lacks, and what is said of it.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct ContainerTests {
    /// Words before a daemon's own that run it in a mount namespace of its own, after a command there.
    private func after(_ command: String) -> String {
        "unshare -m --propagation private sh -c '\(command) && exec \"$0\" \"$@\"'"
    }

    /// The settings are tried again with every resync, which is no news.
    @Test func aReadOnlyProcIsSaidOnce() async throws {
        let lab = try await Lab(nodes: 1)
        let daemon = try await lab[1].start(
            "--iptables-resync=1",
            wrapper: after("mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys"))
        let problem = try await daemon.problem("accept_local", "read-only")
        #expect(problem.contains("privileged"))
        try await daemon.ready()
        try await daemon.wait(for: "more tries") { status in
            status.kernel?.contains { $0.item.hasSuffix("accept_local") && $0.retries >= 3 } == true
        }
        let lines = daemon.log.split(separator: "\n").filter { $0.contains("accept_local") }
        #expect(lines.count == 1 && lines[0].contains("event=problem"), "\(daemon.log)")
    }

    /// Row 17.
    @Test func aContainerWithoutTheDeviceIsToldWhatToMount() async throws {
        let lab = try await Lab(nodes: 1)
        let wrapper = after("mount -t tmpfs tmpfs /dev/net")
        let daemon = try await lab[1].start(wrapper: wrapper)
        #expect(try await daemon.exitStatus() == 77)
        #expect(daemon.log.contains("hostPath /dev/net/tun, type CharDevice"), "\(daemon.log)")
        let findings = try await lab[1].run("\(wrapper) \(LabDaemon.binary) check; true")
        #expect(findings.contains("hostPath /dev/net/tun"), "\(findings)")
    }
}
