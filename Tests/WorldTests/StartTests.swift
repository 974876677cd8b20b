import FoundationEssentials
import Glibc
import Kit
import NetworkNamespaces
import Testing

/// K8: what may still come right is waited for and said; what can't ends at once, with nothing left behind.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct StartTests {
    private func end(_ daemons: LabDaemon...) async throws {
        for daemon in daemons {
            daemon.signal(SIGTERM)
            #expect(try await daemon.exitStatus() == 0)
        }
    }

    /// A socket of this process that has a port of the node; the caller closes it.
    private func bound(_ port: UInt16, on node: LabNode, isTCP: Bool) async throws -> Int32 {
        try await node.namespace.run {
            let descriptor = socket(AF_INET, (isTCP ? 1 : 2) | O_CLOEXEC, 0)
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_port = port.bigEndian
            let outcome = withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
            #expect(outcome == 0)
            if isTCP { #expect(listen(descriptor, 1) == 0) }
            return descriptor
        }
    }

    /// DHCP is late, or a USB stick is plugged in later: what is missing, the flags, and what brings it.
    @Test(arguments: [
        (
            "ip address flush dev eth0", "", "there is no default route",
            "ip address add 172.20.32.101/24 dev eth0 && ip route replace default via 172.20.32.254"
        ),
        (
            "ip address flush dev eth0", "--iface eth0", "no usable IPv4 address",
            "ip address add 172.20.32.101/24 dev eth0"
        ),
        (
            "true", "--iface eth7", "there is no such interface",
            "ip link add eth7 type veth peer name far7 && ip link set far7 up && ip link set eth7 up && "
                + "ip address add 172.20.33.1/24 dev eth7"
        ),
        (
            "ip route delete default", "", "there is no default route",
            "ip route add default via 172.20.32.254"
        ),
    ])
    func anUnderlayThatIsLateIsWaitedFor(before: String, flags: String, reason: String, remedy: String)
        async throws
    {
        let lab = try await Lab(nodes: 1)
        try await lab[1].run(before)
        let daemon = try await lab[1].start("\(flags) --healthz-ip 127.0.0.1 --healthz-port 8471")
        try await lab[1].run("ip link set lo up")
        try await daemon.problem(reason, "this machine has")
        let status = try #require(daemon.status)
        #expect(!status.isReady && status.state.contains("waiting for an underlay"))
        _ = try await until("/readyz") {
            let answer = try? await lab[1].run("curl -s http://127.0.0.1:8471/readyz")
            return answer?.contains(reason) == true ? true : nil
        }
        // Nothing was written to the store for a node that has no address.
        #expect(try await lab[1].run("ls \(lab.directory)/store/subnets") == "")
        #expect(daemon.log.split(separator: "\n").count { $0.contains("event=waiting_for_an_underlay") } == 1)
        try await lab[1].run(remedy)
        try await daemon.healed()
        try await end(daemon)
    }

    @Test func theDaemonStopsWhileItWaitsForAnUnderlay() async throws {
        let lab = try await Lab(nodes: 1)
        try await lab[1].run("ip route delete default")
        let daemon = try await lab[1].start()
        try await daemon.problem("there is no default route")
        try await end(daemon)
    }

    /// Without rights nothing is written: no lease, no device.
    @Test(arguments: [
        "setpriv --bounding-set=-net_admin --inh-caps=-net_admin",
        "setpriv --bounding-set=-all --inh-caps=-all",
    ])
    func aRunWithoutRightsLeavesNothing(wrapper: String) async throws {
        let lab = try await Lab(nodes: 1)
        let daemon = try await lab[1].start(wrapper: wrapper)
        #expect(try await daemon.exitStatus() == 77)
        #expect(daemon.log.contains("CAP_NET_ADMIN"))
        #expect(try await lab[1].run("ls \(lab.directory)/store/subnets") == "")
    }

    /// The port's holder is named, and the node heals by itself when that one leaves.
    @Test func aTakenPortIsNamedAndTakenOnceItIsFree() async throws {
        let lab = try await Lab(nodes: 1)
        let holder = try await bound(8285, on: lab[1], isTCP: false)
        let daemon = try await lab[1].start()
        try await daemon.problem("8285", "(process \(getpid()))")
        #expect(daemon.status?.isReady == false)
        #expect(lab.read("node1/subnet.env") == nil)
        close(holder)
        try await daemon.healed()
        try await end(daemon)
    }

    @Test func aTakenDeviceNameIsNamedAndTakenOnceItIsFree() async throws {
        let lab = try await Lab(nodes: 1, config: #"{"Network": "100.97.0.0/16"}"#)
        // Another network's daemon on this host, with a port of its own.
        try await lab[1].run("mkdir -p \(lab.directory)/other/subnets")
        try lab.write(
            "other/config", #"{"Network": "100.98.0.0/16", "Backend": {"Type": "udp", "Port": 8300}}"#)
        let first = try await lab[1].start(
            "--lease-dir \(lab.directory)/other --status-socket \(lab[1].directory)/first.sock --state-dir "
                + "\(lab[1].directory)/first --subnet-file \(lab[1].directory)/first.env")
        try await first.logged("event=ready")
        let second = try await lab[1].start()
        try await second.logged("event=waiting_for_the_tunnel_device")
        try await second.problem("flannel0", "twilld (process \(first.processIdentifier))")
        first.signal(SIGTERM)
        #expect(try await first.exitStatus() == 0)
        try await second.healed()
        try await end(second)
    }

    /// Two with the same flags: the second touches neither lease nor port.
    @Test func aSecondDaemonWithTheSameFlagsEnds() async throws {
        let lab = try await Lab(nodes: 1)
        let first = try await lab[1].start()
        try await first.ready()
        let lease = try await lab[1].run("ls -l --time-style=full-iso \(lab.directory)/store/subnets")
        let second = try await lab[1].start("--no-takeover")
        #expect(try await second.exitStatus() == 75)
        #expect(second.log.contains("another twilld, twilld (process \(first.processIdentifier)), answers"))
        #expect(try await lab[1].run("ls -l --time-style=full-iso \(lab.directory)/store/subnets") == lease)
        #expect(first.status?.isReady == true)
        try await end(first)
    }

    @Test func aTakenHealthPortIsSaidAndTakenOnceItIsFree() async throws {
        let lab = try await Lab(nodes: 1)
        let holder = try await bound(8471, on: lab[1], isTCP: true)
        let daemon = try await lab[1].start("--healthz-port 8471")
        try await daemon.problem(
            "0.0.0.0:8471", "Address already in use", "(process \(getpid()))", "--healthz-port")
        // Packets do not depend on it.
        try await daemon.ready()
        close(holder)
        try await daemon.healed()
        try await end(daemon)
    }

    /// The network's own MTU can be corrected while nodes wait; one that the flags give can't.
    @Test func anMTUThatDoesNotFitIsWaitedForWhereTheNetworkSaysIt() async throws {
        let lab = try await Lab(nodes: 1, config: #"{"Network": "100.96.0.0/16", "Backend": {"MTU": 9000}}"#)
        let daemon = try await lab[1].start()
        try await daemon.problem("9000")
        #expect(daemon.status?.isReady == false)
        try lab.write("store/config", #"{"Network": "100.96.0.0/16", "Backend": {"MTU": 1400}}"#)
        try await daemon.healed()
        try await end(daemon)
        let other = try await lab[1].start("--mtu 9000")
        #expect(try await other.exitStatus() == 78)
    }

    /// What no waiting mends ends at once, by its kind.
    @Test(arguments: [
        ("--iface-regex 'eth('", 78), ("--port 0", 64), ("--lease-dir= --etcd-endpoints ftp://x", 78),
        ("--kube-subnet-mgr", 78), ("--status-socket /tmp/\(String(repeating: "x", count: 110))", 64),
    ])
    func whatNoWaitingMendsEndsAtOnce(flags: String, status: Int) async throws {
        let lab = try await Lab(nodes: 1)
        let daemon = try await lab[1].start(flags.replacing("'", with: "\""))
        #expect(try await daemon.exitStatus() == status, "\(daemon.log)")
        #expect(try await lab[1].run("ls \(lab.directory)/store/subnets") == "")
    }
}
