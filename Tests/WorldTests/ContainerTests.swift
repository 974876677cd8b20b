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

    /// The device's settings are made by rtnetlink, for which NET_ADMIN is enough.
    @Test func aReadOnlyProcIsNoProblem() async throws {
        let lab = try await Lab(nodes: 1)
        // What the device would have of the machine's defaults is wrong.
        try await lab[1].run(
            "sysctl -qw net.ipv4.conf.default.forwarding=0 net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1"
        )
        let daemon = try await lab[1].start(
            wrapper: after("mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys"))
        let status = try await daemon.healed()
        #expect(status.kernel?.allSatisfy { $0.state == "good" } == true, "\(status)")
        let settings = try await lab[1].run(
            "cd /proc/sys/net/ipv4/conf/flannel0 && cat accept_local forwarding rp_filter")
        #expect(settings == "1\n1\n2\n")
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
