import FoundationEssentials
import Glibc
import Kit
import NetworkNamespaces
import Testing

/// K5: who a node is. K6: what a store says.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct IdentityAndStoreTests {
    /// Stops a daemon as systemd does, and waits for its end.
    private func stop(_ daemon: LabDaemon) async throws {
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
    }

    // MARK: K5

    @Test(arguments: [
        ": > state/identity", "echo garbage > state/identity", "rm state/identity && mkdir state/identity",
    ])
    func damagedIdentityKeepsTheSubnet(damage: String) async throws {
        let lab = try await Lab(nodes: 1)
        let first = try await lab[1].start()
        let subnet = try #require(try await first.ready().lease?.subnet)
        try await stop(first)
        try await lab[1].run("cd \(lab[1].directory) && \(damage)")
        let second = try await lab[1].start()
        #expect(try await second.ready().lease?.subnet == subnet)
        try await second.problem("this node's identity was lost", "state/identity")
        #expect(!second.log.contains("event=lease_skipped"))
    }

    @Test func lostStateDirectoryKeepsTheSubnet() async throws {
        let lab = try await Lab(nodes: 1)
        let first = try await lab[1].start()
        let subnet = try #require(try await first.ready().lease?.subnet)
        try await stop(first)
        try await lab[1].run("rm -rf \(lab[1].directory)/state")
        let second = try await lab[1].start()
        #expect(try await second.ready().lease?.subnet == subnet)
        #expect(try await second.healed().components.allSatisfy { $0.condition == "good" })
    }

    @Test func unreadableIdentityEndsTheStart() async throws {
        let lab = try await Lab(nodes: 1)
        // Reading it fails with EIO, whoever reads.
        try await lab[1].run(
            "mkdir \(lab[1].directory)/state && ln -s /proc/self/mem \(lab[1].directory)/state/identity")
        let daemon = try await lab[1].start()
        #expect(try await daemon.exitStatus() == 78)
        #expect(daemon.log.contains("Input/output error") && daemon.log.contains("state/identity"))
    }

    @Test func copiedStateDirectoryIsFoundOutByBoth() async throws {
        let lab = try await Lab()
        let original = try await lab[1].start()
        let subnet = try #require(try await original.ready().lease?.subnet)
        try await lab[2].run(
            "cp -a \(lab[1].directory)/state \(lab[1].directory)/subnet.env \(lab[2].directory)/")
        let copy = try await lab[2].start()
        try await original.problem(lab[2].address, "has this node's identity")
        try await copy.problem(lab[1].address, "is a copy")
        let status = try await copy.wait(for: "ready with its peer") { $0.isReady && $0.peers.count == 1 }
        #expect(status.lease?.subnet != subnet)
        #expect(original.status?.lease?.subnet == subnet)
        let identities = [1, 2].map { lab.read("node\($0)/state/identity") }
        #expect(identities[0] != identities[1])
    }

    // MARK: K6

    @Test func ordinaryStartsSkipNothing() async throws {
        let lab = try await Lab(nodes: 1)
        // What flanneld left.
        try lab.write("store/subnets/100.96.28.0-24", #"{"PublicIP":"\#(lab[1].address)"}"#)
        for _ in 0..<2 {
            let daemon = try await lab[1].start()
            #expect(try await daemon.healed().lease?.subnet == "100.96.28.0/24")
            #expect(!daemon.log.contains("lease_skipped"))
            try await stop(daemon)
        }
    }

    @Test func unmountedStoreKeepsThePeers() async throws {
        let lab = try await Lab()
        let (store, away) = (lab.directory + "/store", lab.directory + "/away")
        try execute("mv \(store) \(away) && mkdir \(store) && mount --bind \(away) \(store)")
        defer { _ = try? execute("umount -l \(store)") }
        let daemons = try await lab.start()
        var pods: [LabPod] = []
        for (node, daemon) in zip(lab.nodes, daemons) {
            pods.append(try await node.addPod(in: try #require(daemon.status?.lease?.subnet)))
        }
        try execute("umount -l \(store)")
        for daemon in daemons {
            try await daemon.problem("no longer has the leases of 1 node", "they stay peers")
            #expect(daemon.status?.isReady == true)
        }
        #expect(await pods[0].answers(from: pods[1].address) == 3)
        // Nothing was written where nothing is mounted.
        #expect(try execute("ls -A \(store)") == "")
        try execute("mount --bind \(away) \(store)")
        for daemon in daemons { #expect(try await daemon.healed().peers.count == 1) }
    }

    @Test func fifoAmongTheLeasesMakesNobodyDeaf() async throws {
        let lab = try await Lab(nodes: 1)
        try execute("mkfifo \(lab.directory)/store/subnets/100.96.200.0-24")
        let daemon = try await lab[1].start()
        try await daemon.wait(for: "the skipped") {
            $0.skipped.map(\.key) == ["100.96.200.0-24"] && $0.isReady
        }
        #expect(daemon.status?.skipped.first?.reason.contains("a FIFO") == true)
        try lab.write("store/subnets/100.96.201.0-24", #"{"PublicIP":"172.20.32.201"}"#)
        try await daemon.wait(for: "the peer") { $0.peers.count == 1 }
    }

    @Test func timesOfTheFarPastAndFutureCostNothing() async throws {
        let lab = try await Lab(nodes: 3)
        let daemons = [try await lab[1].start(), try await lab[2].start()]
        for daemon in daemons { try await daemon.wait(for: "the peer") { $0.isReady && $0.peers.count == 1 } }
        let before = daemons.map { $0.status?.lease?.subnet }
        // As a node would have written them whose clock is two days behind, or three ahead.
        for (days, subnet) in zip(["2 days ago", "3 days"], before) {
            let name = (subnet ?? "").split(separator: "/").joined(separator: "-")
            try execute("touch -m -d '\(days)' \(lab.directory)/store/subnets/\(name)")
        }
        let third = try await lab[3].start()
        try await third.wait(for: "ready with both") { $0.isReady && $0.peers.count == 2 }
        for (daemon, subnet) in zip(daemons, before) {
            #expect(try await daemon.wait(for: "both peers") { $0.peers.count == 2 }.lease?.subnet == subnet)
            #expect(!daemon.log.contains("lease_released") && !daemon.log.contains("is_gone"))
        }
        #expect(!third.log.contains("lease_released"))
    }

    @Test func misspelledDirectoryIsSaidAndNotMade() async throws {
        let lab = try await Lab(nodes: 1)
        let daemon = try await lab[1].start("--lease-dir \(lab.directory)/stroe")
        try await daemon.problem("stroe is not there")
        #expect(!FileManager.default.fileExists(atPath: lab.directory + "/stroe"))
        #expect(throws: (any Error).self) {
            try execute("\(LabDaemon.binary) lease list --lease-dir \(lab.directory)/stroe 2>&1")
        }
        #expect(!FileManager.default.fileExists(atPath: lab.directory + "/stroe"))
    }

    @Test func networkOverTheUnderlayIsRefused() async throws {
        let lab = try await Lab()
        let daemons = try await lab.start()
        for network in ["172.20.0.0/16", "0.0.0.0/1", "127.0.0.0/8", "224.0.0.0/4"] {
            try lab.write("store/config", #"{"Network": "\#(network)"}"#)
            for daemon in daemons {
                try await daemon.problem(network, "the one before it stays in effect")
                #expect(daemon.status?.tunnel?.network == "100.96.0.0/16")
            }
        }
        try lab.write("store/config", Lab.configuration)
        for daemon in daemons { try await daemon.healed() }
    }

    @Test func leasesThatGoRoundAreNoPeers() async throws {
        let lab = try await Lab(nodes: 1)
        let daemon = try await lab[1].start()
        try await daemon.ready()
        let values = ["100.96.3.4", "255.255.255.255", "239.1.1.1", "127.0.0.1", "0.0.0.0", lab[1].address]
        for (number, address) in values.enumerated() {
            try lab.write("store/subnets/100.96.\(200 + number).0-24", #"{"PublicIP":"\#(address)"}"#)
        }
        let status = try await daemon.wait(for: "the skipped") { $0.skipped.count == values.count }
        #expect(status.peers == [])
        for (skipped, address) in zip(status.skipped, values) { #expect(skipped.reason.contains(address)) }
    }

    @Test func textsOfTheStoreReachNoTerminal() async throws {
        let lab = try await Lab(nodes: 1)
        try lab.write("store/subnets/evil\u{1b}[2Jkey", #"{"PublicIP":"\u001b[31mx"}"#)
        let daemon = try await lab[1].start()
        try await daemon.wait(for: "the skipped") { $0.skipped.count == 1 && $0.isReady }
        let list = try execute("\(LabDaemon.binary) lease list --lease-dir \(lab.directory)/store")
        let status = try execute("\(LabDaemon.binary) status --status-socket \(lab[1].directory)/twilld.sock")
        for text in [list, status, daemon.log] { #expect(!text.contains("\u{1b}")) }
        #expect(list.contains("evil\\u{1b}[2Jkey"))
    }

    @Test func halfOfAPairOfEtcdFlagsStopsNothing() async throws {
        let lab = try await Lab(nodes: 1)
        let daemon = try await lab[1].start(
            "--etcd-endpoints=127.0.0.1:1 --etcd-username=u --etcd-keyfile=/nonexistent --etcd-cafile=")
        try await daemon.problem("127.0.0.1:1")
        #expect(daemon.log.contains("--etcd-username has no effect without --etcd-password"))
    }

    @Test func networkSetIsStrict() async throws {
        let lab = try await Lab(nodes: 1)
        let set = "\(LabDaemon.binary) network set --lease-dir \(lab.directory)/store - 2>&1"
        for (json, words) in [
            (#"{"Network":"10.66.0.0/16",}"#, "line 1, column 27"),
            (#"{"Network":"10.66.0.0/16","network":"10.67.0.0/16"}"#, "stands twice"),
            (#"{"Network":"10.66.0.0/16"} x"#, "more after the end"),
        ] {
            let output = try execute("echo '\(json)' | \(set) || true")
            #expect(output.contains(words), "\(output)")
        }
        #expect(lab.read("store/config") == Lab.configuration)
        #expect(
            try execute(#"echo '{"Network":"10.66.0.0/16","SubnetLn":26}' | \#(set)"#).contains("SubnetLn"))
        #expect(lab.read("store/config")?.contains("SubnetLn") == true)
    }
}
