import Glibc
import Kit
import NetworkNamespaces
import Testing

@testable import NodeDaemon
@testable import twilld

@Suite(.serialized, .enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct DaemonTests {
    private func subnet(_ machine: TestMachine) -> Substring? {
        machine.read("subnet.env")?.split(separator: "\n").first { $0.hasPrefix("FLANNEL_SUBNET=") }
    }

    @Test func startsStopsAndGetsTheSameSubnetAgain() async throws {
        let machine = try await TestMachine()
        var daemon = try await machine.start("-ip-masq -healthz-ip=127.0.0.1 -healthz-port=8471")
        let status = try await daemon.ready()
        let lease = try #require(status.lease)
        let environment = try #require(machine.read("subnet.env"))
        #expect(environment.contains("FLANNEL_NETWORK=10.66.0.0/16\n"))
        #expect(environment.contains("FLANNEL_MTU=1472\n"))
        #expect(environment.contains("FLANNEL_IPMASQ=true\n"))
        let first = subnet(machine)
        #expect(try await machine.run("ip route show 10.66.0.0/16").hasPrefix("10.66.0.0/16 dev flannel0"))
        #expect(
            try await machine.run("ip -o address show flannel0").contains(
                lease.subnet.replacing("/24", with: "/32")))
        #expect(try await machine.run("curl -s http://127.0.0.1:8471/readyz") == "ok\n")
        #expect(try await machine.run("iptables -t nat -S FLANNEL-POSTRTG").contains("MASQUERADE"))

        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
        // The device stays, with its route (--on-stop).
        #expect(try await machine.run("ip link").contains("flannel0"))
        #expect(try await machine.run("ls \(machine.directory)/store/subnets").contains("-24"))
        // The rules stay: running pods are not cut off while the daemon is started again.
        #expect(try await machine.run("iptables -t nat -S").contains("-j FLANNEL-POSTRTG"))
        // A stop on a machine so busy that it does not wait to its end leaves the name to the next start.
        let waited = !daemon.log.contains("event=stopped_without_waiting_any_longer")
        let hasName = try await machine.run("ls \(machine.directory)").contains("twilld.sock")
        #expect(!waited || !hasName, "\(daemon.log)")

        daemon = try await machine.start("-tun-name flannel0")
        #expect(try await daemon.ready().lease?.subnet == lease.subnet)
        #expect(subnet(machine) == first)

        daemon.signal(SIGINT)
        #expect(try await daemon.exitStatus() == 0)
    }

    @Test func comesBackAfterBeingKilled() async throws {
        let machine = try await TestMachine()
        var daemon = try await machine.start()
        let subnet = try await daemon.ready().lease?.subnet
        for _ in 0..<3 {
            daemon.signal(SIGKILL)
            #expect(try await daemon.exitStatus() == 128 + Int(SIGKILL))
            daemon = try await machine.start()
            #expect(try await daemon.ready().lease?.subnet == subnet)
        }
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
    }

    /// The file is so long that the daemon is still at it when the signal comes.
    @Test func aSIGHUPWhileItStartsIsAnsweredOnceItHasStarted() async throws {
        let machine = try await TestMachine()
        let file = machine.directory + "/twilld.conf"
        try await machine.run("yes '# a remark' | head -c 10000000 >\(file) && echo v = 0 >>\(file)")
        let daemon = try await machine.start("--config \(file)")
        let process = "/proc/\(daemon.processIdentifier)"
        try await machine.run(
            "until grep -q 'rchar: [0-9]\\{8\\}' \(process)/io; do :; done; kill -HUP \(daemon.processIdentifier)"
        )
        _ = try await daemon.until("the file to be read again") {
            daemon.log.contains("event=configuration_reloaded") ? true : nil
        }
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
    }

    @Test func waitsForTheNetworkConfigAndSaysSo() async throws {
        let machine = try await TestMachine(config: nil)
        let daemon = try await machine.start("-healthz-ip=127.0.0.1 -healthz-port=8471")
        _ = try await daemon.until("its state") {
            daemon.status?.state.contains("network config") == true ? true : nil
        }
        #expect(
            try await machine.run("curl -s -w %{http_code} http://127.0.0.1:8471/readyz").hasSuffix("503"))
        #expect(
            try await machine.run("curl -s -w %{http_code} http://127.0.0.1:8471/healthz").hasSuffix("200"))
        try machine.write(
            "store/config", #"{"Network": "10.67.0.0/16", "Backend": {"Port": 8299, "MTU": 1300}}"#)
        let status = try await daemon.ready()
        #expect(status.tunnel?.network == "10.67.0.0/16")
        #expect(status.tunnel?.mtu == 1300)
        #expect(try await machine.run("ss -Hlun").contains("198.18.78.1:8299"))
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
    }

    @Test func stopsWhileItStillWaits() async throws {
        let machine = try await TestMachine(config: nil)
        let daemon = try await machine.start()
        _ = try await daemon.until("an answer") { daemon.status }
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
    }

    /// A program that never ends holds the control thread, which nobody can cancel: the daemon ends all the same, with
    /// the status of its signal.
    @Test func whatHangsDoesNotHoldUpTheEnd() async throws {
        let machine = try await TestMachine()
        let hangs = "\(machine.directory)/hangs"
        try await machine.run("mkdir \(machine.directory)/bin")
        try machine.write(
            "bin/nft",
            "#!/bin/sh\n[ -e \(hangs) ] && touch \(hangs)-now && exec sleep 14\nPATH=/usr/sbin:/usr/bin exec nft \"$@\"\n"
        )
        try await machine.run("chmod +x \(machine.directory)/bin/nft")
        let daemon = try await machine.start(
            "-iptables-resync=1", environment: "PATH=\(machine.directory)/bin:$PATH")
        _ = try await daemon.ready()
        try machine.write("hangs", "")
        try await machine.run("iptables -F FLANNEL-FWD")
        _ = try await daemon.until("a program that hangs") { machine.read("hangs-now") }
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
        #expect(daemon.log.contains("event=stopped_without_waiting_any_longer"), "\(daemon.log)")
        #expect(try await machine.run("ip link").contains("flannel0"))
    }

    @Test func peersComeAndGoAndCountersArePrinted() async throws {
        let machine = try await TestMachine()
        let daemon = try await machine.start()
        _ = try await daemon.ready()
        try machine.write("store/subnets/10.66.250.0-24", #"{"PublicIP":"198.18.78.9"}"#)
        try machine.write("store/subnets/10.66.251.0-24", "nonsense")
        _ = try await daemon.until("the peer") {
            daemon.status?.peers.contains { $0.endpoint == "198.18.78.9:8285" } == true ? true : nil
        }
        _ = try await daemon.until("the bad lease") {
            daemon.status?.skipped.contains { $0.key == "10.66.251.0-24" } == true ? true : nil
        }
        // The peer does not exist; a packet for it leaves all the same.
        _ = try? await machine.run("ping -c 1 -W 1 10.66.250.1")
        daemon.signal(SIGUSR1)
        _ = try await daemon.until("the counters") { daemon.log.contains("end=counters\n") ? true : nil }
        #expect(daemon.log.contains("\ntunnel_reads="))
        try await machine.run("rm \(machine.directory)/store/subnets/10.66.250.0-24")
        _ = try await daemon.until("no peer") { daemon.status?.peers.isEmpty == true ? true : nil }
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
    }

    @Test func anotherMTUAndAnotherAddressAreFollowed() async throws {
        let machine = try await TestMachine()
        let daemon = try await machine.start()
        let subnet = try await daemon.ready().lease?.subnet
        try await machine.run("ip link set eth0 mtu 1400")
        _ = try await daemon.until("the MTU") {
            machine.read("subnet.env")?.contains("FLANNEL_MTU=1372\n") == true ? true : nil
        }
        #expect(try await machine.run("ip link show flannel0").contains("mtu 1372"))
        try await machine.run(
            "sysctl -qw net.ipv4.conf.all.promote_secondaries=1 && ip address add 198.18.78.2/24 dev eth0"
                + " && ip address delete 198.18.78.1/24 dev eth0 && ip route replace default via "
                + "198.18.78.254"
        )
        let status = try await daemon.until("the address") {
            daemon.status.flatMap { $0.underlay?.endpoint == "198.18.78.2:8285" ? $0 : nil }
        }
        #expect(status.lease?.subnet == subnet)
        _ = try await daemon.until("the socket") {
            daemon.log.contains("event=data_plane_replaced bound=198.18.78.2:8285") ? true : nil
        }
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
    }

    @Test func whatIsTakenAwayComesBack() async throws {
        let machine = try await TestMachine()
        let daemon = try await machine.start()
        let status = try await daemon.ready()
        let address = try #require(status.lease?.subnet.replacing("/24", with: "/32"))
        for command in [
            "ip route delete 10.66.0.0/16", "ip address flush dev flannel0", "ip link set flannel0 down",
            "ip link delete flannel0",
        ] {
            try await machine.run(command)
            var isBack = false
            for _ in 0..<500 where !isBack {
                try await Task.sleep(for: .milliseconds(20))
                let routes = try await machine.run("ip route show 10.66.0.0/16")
                let addresses = try await machine.run("ip -o address show")
                isBack = routes.hasPrefix("10.66.0.0/16 dev flannel0") && addresses.contains(address)
            }
            #expect(isBack, "\(command)\n\(daemon.log)")
        }
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
    }

    @Test func rulesAreLookedAfterAsOftenAsAskedFor() async throws {
        let machine = try await TestMachine()
        let daemon = try await machine.start("-ip-masq -iptables-resync=1")
        _ = try await daemon.ready()
        try await machine.run("iptables -t nat -F FLANNEL-POSTRTG")
        _ = try await daemon.until("the rules") { daemon.log.contains("event=restored") ? true : nil }
        #expect(try await machine.run("iptables -t nat -S FLANNEL-POSTRTG").contains("MASQUERADE"))
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
    }

    /// What is wrong, what must be said about it, and the exit status.
    @Test(arguments: [
        ("-iface-regex=[", "[", NodeDaemon.ExitStatus.configuration),
        ("-mtu=1473", "1473", .configuration),
        ("-mtu=100", "100", .configuration),
        ("-tun-name=far", "far", .configuration),
        ("-kube-subnet-mgr -kube-api-url=http://h:1", "NODE_NAME", .configuration),
        ("-kube-subnet-mgr -node-name=n", "--kube-api-url", .configuration),
        ("-subnet-file=/proc/nowhere/subnet.env", "/proc/nowhere", .configuration),
        ("-state-dir=/proc/nowhere", "/proc/nowhere", .configuration),
        ("-lease-dir= -etcd-endpoints=ftp://x", "ftp://x", .configuration),
        ("-ip-masq=perhaps", "perhaps", .usage),
    ])
    func endsWithAMessage(flags: String, text: String, status: NodeDaemon.ExitStatus) async throws {
        let machine = try await TestMachine()
        let daemon = try await machine.start(flags)
        #expect(try await daemon.exitStatus() == Int(status.rawValue), "\(daemon.log)")
        let last = daemon.log.split(separator: "\n").last ?? ""
        #expect(last.hasPrefix("twilld: ") && last.contains(text), "\(daemon.log)")
    }

    @Test func aTakenPortIsSaidAndWaitedFor() async throws {
        let machine = try await TestMachine()
        let first = try await machine.start()
        _ = try await first.ready()
        try machine.write("store/config", #"{"Network": "10.66.0.0/16"}"#)
        let second = try await machine.start(
            "-tun-name=flannel1 -subnet-file=\(machine.directory)/second.env"
                + " -status-socket=\(machine.directory)/second.sock -state-dir=\(machine.directory)/state")
        let holder = "held by twilld (process \(first.processIdentifier))"
        let client = StatusClient(socketPath: "\(machine.directory)/second.sock")
        _ = try await second.until("the port") {
            (try? client.status())?.problems.contains { $0.contains("8285") && $0.contains(holder) } == true
                ? true : nil
        }
        #expect(first.status?.isReady == true)
        first.signal(SIGTERM)
        #expect(try await first.exitStatus() == 0)
        _ = try await second.until("ready") { (try? client.status())?.isReady == true ? true : nil }
        second.signal(SIGTERM)
        #expect(try await second.exitStatus() == 0)
    }

    @Test func aSecondTwilldWithTheSameFlagsEnds() async throws {
        let machine = try await TestMachine()
        let first = try await machine.start()
        let lease = try await first.ready().lease
        let second = try await machine.start("--no-takeover")
        #expect(try await second.exitStatus() == Int(NodeDaemon.ExitStatus.temporary.rawValue))
        #expect(second.log.contains("twilld (process \(first.processIdentifier))"))
        #expect(!second.log.contains("lease"))
        #expect(first.status?.lease?.subnet == lease?.subnet)
        first.signal(SIGTERM)
        #expect(try await first.exitStatus() == 0)
    }

    @Test func systemdIsToldOfEachStep() async throws {
        let machine = try await TestMachine()
        let socket = NotifySocket("\(machine.directory)/notify")
        let daemon = try await machine.start(environment: "NOTIFY_SOCKET=\(socket.name) WATCHDOG_USEC=200000")
        _ = try await daemon.ready()
        var told: [String] = []
        for _ in 0..<500 where !(told.contains("WATCHDOG=1") && told.contains { $0.hasPrefix("READY=1") }) {
            while let message = socket.next() { told.append(message) }
            try await Task.sleep(for: .milliseconds(20))
        }
        #expect(told.contains { $0.hasPrefix("READY=1\nSTATUS=subnet 10.66.") }, "\(told)")
        #expect(told.contains { $0.hasPrefix("STATUS=waiting for ") }, "\(told)")
        #expect(told.contains("WATCHDOG=1"))
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
        while let message = socket.next() { told.append(message) }
        #expect(told.contains("STOPPING=1"))
    }

    @Test func metricsAreWhatPrometheusReads() async throws {
        let machine = try await TestMachine()
        let daemon = try await machine.start("-healthz-ip=127.0.0.1 -healthz-port=8471")
        _ = try await daemon.ready()
        try machine.write("store/subnets/10.66.250.0-24", #"{"PublicIP":"198.18.78.9"}"#)
        _ = try await daemon.until("the peer") { daemon.status?.peers.isEmpty == false ? true : nil }
        // What an issue lists by name: packets, bytes, drops by reason, ring depth, batch sizes, fallbacks, peers,
        // lease age and time to expiry, store connected, reconnects, loop-time histogram.
        let metrics = try await machine.run("curl -s http://127.0.0.1:8471/metrics")
        for name in [
            "twill_ready 1", "twill_peers 1", "twill_store_connected 1", "twill_store_reconnects_total 0",
            "twill_lease_expiry_seconds ", "twill_lease_age_seconds ", "process_open_fds ",
            "twill_packets_sent_total ", "twill_bytes_sent_total ", "twill_packets_delivered_total ",
            "twill_dropped_packets_total{direction=\"outbound\",reason=\"no_route\"} ",
            "twill_ring_submissions ", "twill_ring_completions ", "twill_receive_buffers_free ",
            "twill_send_batch_bucket{le=\"+Inf\"} ", "twill_send_batch_sum ",
            "twill_round_time_seconds_bucket{le=\"+Inf\"} ", "twill_segmentation_fallbacks_total 0",
            "twill_peer_sent_packets_total{subnet=\"10.66.250.0/24\"} 0", "twill_peers_heard 0",
        ] {
            #expect(metrics.contains("\n\(name)"), "\(name)")
        }
        if try await machine.run("command -v promtool || true") != "" || getenv("TWILL_CI") != nil {
            try await machine.run("curl -s http://127.0.0.1:8471/metrics | promtool check metrics")
        }
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
    }
}
