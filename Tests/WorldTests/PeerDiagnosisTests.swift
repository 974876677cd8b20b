import FoundationEssentials
import Glibc
import Kit
import NetworkNamespaces
import NodeDaemon
import Testing

/// What `twilld ping` and `twilld doctor` say of peers that are broken in different ways.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct PeerDiagnosisTests {
    /// The document that a command prints on a node, by its daemon.
    private func document(_ command: String, on node: LabNode) async throws -> DoctorDocument {
        let text = try await node.run(
            "\(LabDaemon.binary) \(command) --json --status-socket \(node.directory)/twilld.sock || [ $? = 1 ]"
        )
        return try JSONDecoder().decode(DoctorDocument.self, from: Data(text.utf8))
    }

    private func verdicts(_ document: DoctorDocument) -> [String: String] {
        document.peers.reduce(into: [:]) { verdicts, peer in
            verdicts[String(peer.endpoint.prefix { $0 != ":" })] = peer.verdict
        }
    }

    /// Hellos have had the kernel look for the host's address, which it believes in for half a minute or so. As after that.
    private func forget(_ host: LabNode, at node: LabNode) async throws {
        try await node.run("ip neigh delete \(host.address) dev eth0 || true")
    }

    @Test func eachBrokenPeerGetsItsOwnVerdict() async throws {
        let lab = try await Lab(nodes: 8)
        let router = try await lab.addRouter(before: 6)
        try await router.filterICMP()
        let daemons = try await lab.start()
        // What goes by the kernel path passes the fourth's rule for a few seconds still: that is no narrow path.
        try await daemons[0].wait(for: "all peers able") { $0.kernelPath?.ablePeers == 7 }
        // The third's daemon is gone, the fourth's port is filtered, the fifth is off the network, the sixth is behind a
        // narrow path, and what the seventh sends comes from another address than its lease has.
        daemons[2].signal(SIGKILL)
        _ = try await daemons[2].exitStatus()
        try await lab[4].run("iptables -w -A INPUT -p udp --dport 8285 -j DROP")
        try await lab[5].run("ip link set eth0 down")
        try await forget(lab[5], at: lab[1])
        try await router.setMTU(1400)
        // Datagrams without a checksum do not come to the eighth where they are longer than a hello. As tcpdump has it:
        // `udp dst port 8285 and udp[6:2] = 0 and ip[2:2] > 60`.
        let program =
            "12,40 0 0 12,21 0 8 2048,48 0 0 23,21 0 6 17,40 0 0 36,21 0 4 8285,40 0 0 40,21 0 2 0,40 0 0 16,37 1 0 60,"
            + "6 0 0 4294967295,6 0 0 2"
        try await lab.wire.run {
            try execute(
                "tc qdisc add dev node8 clsact && tc filter add dev node8 egress bpf da bytecode '\(program)'"
            )
        }
        // As a NAT would have it that knows nothing of the datagrams that come in.
        try await lab[7].run(
            "nft 'table ip nat { chain out { type filter hook postrouting priority 0; "
                + "udp sport 8285 ip saddr set 172.20.32.77; }; }'")

        let document = try await document("ping", on: lab[1])
        #expect(
            verdicts(document) == [
                lab[2].address: "reachable", lab[3].address: "port-closed", lab[4].address: "tunnel-silent",
                lab[5].address: "host-down", lab[6].address: "narrow", lab[7].address: "address-translated",
                lab[8].address: "kernel-path-silent",
            ])
        let narrow = document.peers.first { $0.verdict == "narrow" }
        #expect(narrow?.largestBytes == 1372 && narrow?.fullBytes == 1472)
        // Those that are cut off come first, what is well last.
        #expect(document.peers.last?.verdict == "reachable")
        #expect(document.peers.allSatisfy { ($0.remedy == nil) == ($0.verdict == "reachable") })
    }

    /// Four peers broken in four ways, as a person sees them. `tools/record-doctor` keeps what the test saw in
    /// docs/doctor-session.txt.
    @Test func theDoctorFindsFourBrokenPeers() async throws {
        let lab = try await Lab(nodes: 5)
        let router = try await lab.addRouter(before: 5)
        try await router.filterICMP()
        let daemons = try await lab.start()
        // As in a network that has been up for longer than this one: what the doctor waits for where there is a kernel path
        // is in its time.
        try await daemons[0].wait(for: "all peers able") { $0.kernelPath?.ablePeers == 4 }
        daemons[1].signal(SIGKILL)
        _ = try await daemons[1].exitStatus()
        try await lab[3].run("iptables -w -A INPUT -p udp --dport 8285 -j DROP")
        try await lab[4].run("ip link set eth0 down")
        try await forget(lab[4], at: lab[1])
        try await router.setMTU(1400)
        let (answer, time) = try await timed("doctor", on: lab[1])
        for (peer, words) in [
            (2, "its daemon does not run"), (3, "a firewall drops"), (4, "nobody on the local network"),
            (5, "1372"),
        ] {
            // A line may be folded anywhere.
            let findings = answer.replacing(#/\s+/#, with: " ").components(separatedBy: "FAIL ")
            let line = findings.first { $0.contains(lab[peer].address) }
            #expect(line?.contains(words) == true, "\(lab[peer].address): \(words) is not in: \(answer)")
        }
        #expect(answer.hasSuffix("0 of 4 peers reachable\nstatus 1\n"), "\(answer)")
        guard let path = getenv("TWILL_RECORD_DOCTOR") else { return }
        var session = "node1 $ twilld doctor; echo status $?\n\(answer)(\(time))\n"
        for peer in 2...5 {
            try await forget(lab[peer], at: lab[1])
            let (answer, time) = try await timed("ping \(lab[peer].address)", on: lab[1])
            session += "\nnode1 $ twilld ping \(lab[peer].address); echo status $?\n\(answer)(\(time))\n"
        }
        try Data(session.utf8).write(to: URL(filePath: String(cString: path)))
    }

    /// What a command prints with its status behind it, and how long it took: `4.2 s`.
    private func timed(_ command: String, on node: LabNode) async throws -> (answer: String, time: String) {
        let begin = ContinuousClock.now
        let answer = try await node.run(
            "\(LabDaemon.binary) \(command) --status-socket \(node.directory)/twilld.sock; echo status $?")
        let tenths = Int((ContinuousClock.now - begin) / .milliseconds(100) + 0.5)
        return (answer, "\(tenths / 10).\(tenths % 10) s")
    }

    @Test func aNetworkThatIsWellHasNothingToSay() async throws {
        let lab = try await Lab()
        let daemons = try await lab.start()
        let text = try await lab[1].run(
            "\(LabDaemon.binary) ping --status-socket \(lab[1].directory)/twilld.sock")
        #expect(text.hasPrefix("ok    100.96.") && text.contains("1472 of 1472 bytes"), "\(text)")
        let doctor = try await document("doctor", on: lab[1])
        #expect(doctor.findings.allSatisfy { $0.outcome != "FAIL" })
        #expect(verdicts(doctor) == [lab[2].address: "reachable"])
        // A look changes nothing: the node has counted no drop, and its peer the empty datagrams alone.
        #expect(daemons[0].status?.drops == [:])
        #expect(daemons[1].status?.drops.keys.map(\.name) == ["drop_inbound_too_short"])
    }

    @Test func peersAreNamedAsPeopleNameThem() async throws {
        let lab = try await Lab(nodes: 3)
        let daemons = try await lab.start()
        let subnet = try #require(daemons[1].status?.lease?.subnet)
        let pod = subnet.replacing(".0/24", with: ".77")
        // All nodes of a lab are on one machine, and so of one name.
        let everybody = try await document("ping \(try #require(HostName.own))", on: lab[1])
        #expect(everybody.peers.count == 2)
        for name in [subnet, subnet.replacing("/", with: "-"), lab[2].address, pod] {
            let document = try await document("ping \(name)", on: lab[1])
            #expect(document.peers.map(\.subnet) == [subnet], "\(name)")
        }
        await #expect(throws: CommandFailure.self) {
            try await lab[1].run(
                "\(LabDaemon.binary) ping 10.1.1.1 --status-socket \(lab[1].directory)/twilld.sock")
        }
    }

    @Test func theDoctorSaysThatNoDaemonRuns() async throws {
        let lab = try await Lab(nodes: 1)
        let document = try await document("doctor", on: lab[1])
        #expect(document.findings.first?.subject == "daemon" && document.findings.first?.outcome == "FAIL")
    }
}
