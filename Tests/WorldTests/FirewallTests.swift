import FoundationEssentials
import Glibc
import Kit
import NetworkNamespaces
import Testing

/// Rules are judged by what they do to pods' packets (K7), and kept where monitors look for them (K15).
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct FirewallTests {
    private static let nftables =
        #"{"Network": "100.96.0.0/16", "EnableNFTables": true, "Backend": {"Type": "udp"}}"#

    /// Two ready nodes that look at their rules every second, with a pod each.
    private func pods(config: String = Lab.configuration, before: String? = nil) async throws -> (
        lab: Lab, daemons: [LabDaemon], pods: [LabPod]
    ) {
        let lab = try await Lab(config: config)
        if let before { try await lab[1].run(before) }
        let daemons = try await lab.start("--iptables-resync=1")
        var pods: [LabPod] = []
        for (node, daemon) in zip(lab.nodes, daemons) {
            pods.append(try await node.addPod(in: try #require(daemon.status?.lease?.subnet)))
        }
        return (lab, daemons, pods)
    }

    /// What an operator appends, before the daemon or while it runs, does not come before what twill accepts.
    @Test(arguments: [
        "iptables -A FORWARD -j REJECT", "iptables -P FORWARD DROP; iptables -A FORWARD -j REJECT",
    ])
    func aRejectInForwardCutsNobodyOff(_ command: String) async throws {
        let (lab, daemons, pods) = try await pods(before: command)
        #expect(await pods[0].answers(from: pods[1].address) == 3)
        try await lab[2].run(command)
        #expect(await pods[1].answers(from: pods[0].address) == 3)
        #expect(daemons.allSatisfy { $0.status?.problems == [] })
    }

    @Test func aRejectBeforeTheRulesIsPassedByMovingThem() async throws {
        let (lab, daemons, pods) = try await pods()
        try await lab[1].run("iptables -I FORWARD -j REJECT")
        try await daemons[0].logged("behind a rule that drops what it accepts")
        #expect(await pods[0].answers(from: pods[1].address) == 3)
        try await daemons[0].healed()
    }

    /// Docker 28 puts its chains in front whenever it is started, and drops what comes to docker0 from other interfaces.
    @Test func dockersChainsInFrontCutNobodyOff() async throws {
        let (lab, daemons, pods) = try await pods()
        try await lab[1].run(
            "iptables -P FORWARD DROP; iptables -N DOCKER; iptables -A DOCKER ! -i docker0 -o docker0 -j DROP; iptables -I FORWARD -o docker0 -j DOCKER; iptables -I FORWARD -i docker0 -j ACCEPT"
        )
        try await daemons[0].logged("behind a rule that drops what it accepts")
        #expect(await pods[1].answers(from: pods[0].address) == 3)
        try await daemons[0].healed()
    }

    /// Docker sets the policy when it is started, which is after twilld.
    @Test(arguments: [Lab.configuration, nftables])
    func aPolicyOfDropThatComesLaterLosesNothing(_ config: String) async throws {
        let (lab, daemons, pods) = try await pods(config: config)
        try await lab[1].run("iptables -P FORWARD DROP")
        #expect(await pods[0].answers(from: pods[1].address, count: 20) == 20)
        #expect(daemons[0].status?.problems == [])
    }

    /// What somebody does, what the problem then says, and what takes it away again.
    private struct Fault {
        var command: String
        var words: [String]
        var remedy: String
    }

    /// Faults that cut pods off where no rule of twill's can help.
    private static let droppingPodsPackets = [
        Fault(
            command: """
                nft 'table inet firewalld { chain filter_FORWARD { type filter hook forward priority filter + 10;
                ct state { established, related } accept
                reject with icmpx admin-prohibited
                }
                }'
                """,
            words: ["nftables table inet firewalld", "filter_FORWARD", "reject with icmpx", "firewall-cmd"],
            remedy: "nft delete table inet firewalld"),
        Fault(
            command:
                "nft 'table ip guard { chain f { type filter hook forward priority -5; policy drop;\n}\n}'",
            words: [
                "nftables table ip guard", "chain f", "its policy drops",
                "accept packets from and to 100.96.0.0/16",
            ],
            remedy: "nft delete table ip guard"),
        Fault(
            command:
                "iptables -t mangle -N ufw-x; iptables -t mangle -A FORWARD -j ufw-x; iptables -t mangle -A ufw-x -j DROP",
            words: [
                "iptables table mangle", "ufw-x (called from FORWARD)", "ufw route allow in on flannel0",
            ],
            remedy: "iptables -t mangle -F"),
        Fault(
            command: "iptables-legacy -A FORWARD -j REJECT",
            words: [
                "iptables-legacy table filter", "chain FORWARD", "-A FORWARD -j REJECT",
                "iptables-legacy -t filter -I FORWARD",
            ],
            remedy: "iptables-legacy -F FORWARD"),
    ]

    @Test func whatDropsPodsPacketsIsNamed() async throws {
        let (lab, daemons, pods) = try await pods()
        for fault in Self.droppingPodsPackets {
            try await expectIsToldAndHeals(fault, on: lab[1], daemons[0]) {
                #expect(await pods[1].answers(from: pods[0].address, count: 1) == 0, "\(fault.command)")
            }
        }
        #expect(await pods[1].answers(from: pods[0].address) == 3)
    }

    private func expectIsToldAndHeals(
        _ fault: Fault, on node: LabNode, _ daemon: LabDaemon, meanwhile: () async -> Void = {}
    ) async throws {
        try await node.run(fault.command)
        let sentence = try await daemon.problem(fault.words[0])
        for word in fault.words { #expect(sentence.contains(word), "\(sentence)") }
        #expect(daemon.status?.isReady == false)
        await meanwhile()
        try await node.run(fault.remedy)
        try await daemon.healed()
    }

    /// Faults that cut the tunnel's own datagrams off.
    private static let droppingDatagrams = [
        Fault(
            command: "iptables -A INPUT -p udp --dport 8285 -j DROP",
            words: ["chain INPUT", "--dport 8285 -j DROP", "UDP port 8285"], remedy: "iptables -F INPUT"),
        Fault(
            command: "iptables -A OUTPUT -d 172.20.32.102 -j REJECT",
            words: ["chain OUTPUT", "tunnel datagrams to"],
            remedy: "iptables -F OUTPUT"),
        Fault(
            command:
                "nft 'table netdev n { chain i { type filter hook ingress device eth0 priority 0; udp dport 8285 drop\n}\n}'",
            words: ["nftables table netdev n", "udp dport 8285 drop"], remedy: "nft delete table netdev n"),
        Fault(
            command: "iptables -t raw -A PREROUTING -i eth0 -s 172.20.32.0/24 -j DROP",
            words: ["iptables table raw", "chain PREROUTING"], remedy: "iptables -t raw -F"),
    ]

    @Test func whatDropsTunnelDatagramsIsNamed() async throws {
        let lab = try await Lab()
        let daemon = try await lab.start("--iptables-resync=1")[0]
        for fault in Self.droppingDatagrams { try await expectIsToldAndHeals(fault, on: lab[1], daemon) }
    }

    /// What hits some packets only leaves the node ready.
    @Test func aRuleForOneProtocolOrOneNodeDegrades() async throws {
        let lab = try await Lab(nodes: 3)
        let daemon = try await lab.start("--iptables-resync=1")[0]
        let peer = try #require(daemon.status?.peers.first?.subnet)
        try await lab[1].run("iptables -t mangle -A FORWARD -d \(peer) -j DROP")
        try await daemon.problem("iptables table mangle", "what pods here send to \(peer)")
        #expect(daemon.status?.isReady == true)
        try await lab[1].run(
            "iptables -t mangle -F; nft 'table ip g { chain f { type filter hook forward priority 1; meta l4proto tcp drop\n}\n}'"
        )
        try await daemon.problem("nftables table ip g", "TCP of what pods here send")
        #expect(daemon.status?.isReady == true)
        try await lab[1].run("nft delete table ip g")
        try await daemon.healed()
    }

    @Test func anInterfaceThatDoesNotForwardIsNamed() async throws {
        let (lab, daemons, _) = try await pods()
        for (interface, isReady) in [("docker0", false), ("eth0", true)] {
            let setting = "net.ipv4.conf.\(interface).forwarding"
            try await lab[1].run("sysctl -qw \(setting)=0")
            try await daemons[0].problem(setting, "sysctl -w \(setting)=1")
            #expect(daemons[0].status?.isReady == isReady)
            try await lab[1].run("sysctl -qw \(setting)=1")
            try await daemons[0].healed()
        }
    }

    @Test func aStrictUnderlayThatDropsANodesDatagramsIsNamed() async throws {
        let lab = try await Lab()
        try await lab[1].run(
            "sysctl -qw net.ipv4.conf.eth0.rp_filter=1; ip link add other type veth peer name far && ip link set other up && ip link set far up && ip address add 172.20.33.1/24 dev other"
        )
        let daemon = try await lab.start("--iptables-resync=1 --iface=eth0")[0]
        try await daemon.healed()
        try await lab[1].run("ip route add 172.20.32.102/32 dev other")
        try await daemon.problem("rp_filter of eth0 is 1", "172.20.32.102", "other")
        try await lab[1].run("sysctl -qw net.ipv4.conf.eth0.rp_filter=2")
        _ = try await daemon.wait(for: "no such problem") {
            !$0.problems.contains { $0.contains("rp_filter") }
        }
    }

    // MARK: Where monitors look for rules

    @Test func theConfigurationSaysWhichProgramKeepsTheRules() async throws {
        let lab = try await Lab(nodes: 1)
        let daemon = try await lab.start("--ip-masq --iptables-resync=1")[0]
        let nat = try await lab[1].run("iptables -t nat -S")
        #expect(nat.contains(#"-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG"#))
        #expect(
            nat.contains(
                #"-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN"#
            ))
        let filter = try await lab[1].run("iptables -S")
        #expect(filter.contains(#"-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD"#))
        #expect(
            filter.contains(
                #"-A FLANNEL-FWD -s 100.96.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT"#))
        #expect(try await !lab[1].run("nft list tables").contains("flannel"))
        // Changed while it runs: what the other program kept goes.
        try lab.write("store/config", Self.nftables)
        _ = try await until("the table", { daemon.log }) {
            await lab[1].succeeds(
                "nft list table ip flannel-ipv4 | grep -q 'comment \"rules for flannel-ipv4\"' && ! iptables -t nat -S FLANNEL-POSTRTG"
            ) ? true : nil
        }
        try lab.write("store/config", Lab.configuration)
        _ = try await until("the chain", { daemon.log }) {
            await lab[1].succeeds("iptables -t nat -S FLANNEL-POSTRTG && ! nft list table ip flannel-ipv4")
                ? true : nil
        }
        try await daemon.healed()
    }

    /// Programs that are not there, or of no use: stand-ins in front of the machine's own.
    @Test func whereOneProgramDoesNotWorkTheOtherIsUsed() async throws {
        let lab = try await Lab(nodes: 1)
        try await lab[1].run(
            "mkdir \(lab.directory)/bin && for name in iptables iptables-nft iptables-legacy; do printf '#!/bin/sh\\nexit 3\\n' >\(lab.directory)/bin/$name; done; chmod +x \(lab.directory)/bin/*"
        )
        let daemon = try await lab[1].start(
            "--ip-masq --iptables-resync=1", environment: "PATH=\(lab.directory)/bin:$PATH")
        try await daemon.ready()
        try await daemon.logged("event=rules_by_another_program")
        try await lab[1].run("nft list table ip flannel-ipv4")
        try await daemon.healed()
        try await lab[1].run("cp \(lab.directory)/bin/iptables \(lab.directory)/bin/nft; nft flush ruleset")
        try await daemon.problem("neither iptables nor nft works here", "install")
        try await lab[1].run("rm \(lab.directory)/bin/*")
        try await daemon.healed()
    }

    @Test func twoNetworksOnOneMachineKeepTheirOwnRules() async throws {
        let lab = try await Lab(nodes: 1)
        let first = try await lab[1].start("--ip-masq --iptables-resync=1")
        try await first.ready()
        let other = lab.directory + "/other"
        try await lab[1].run("mkdir -p \(other)/store/subnets")
        try lab.write(
            "other/store/config", #"{"Network": "100.97.0.0/16", "Backend": {"Type": "udp", "Port": 8286}}"#)
        let second = try await lab[1].start(
            "--ip-masq --iptables-resync=1 --lease-dir \(other)/store --tun-name twill1 --subnet-file \(other)/subnet.env --state-dir \(other)/state --status-socket \(other)/twilld.sock"
        )
        _ = try await until("the second", { second.log }) { second.log.contains("event=ready") ? true : nil }
        let rules = "iptables -t nat -S; iptables -S"
        let listed = try await lab[1].run(rules)
        for chain in ["FLANNEL-POSTRTG ", "FLANNEL-FWD ", "FLANNEL-PRTG-twill1 ", "FLANNEL-FWD-twill1 "] {
            #expect(listed.contains("-A \(chain)"), "\(listed)")
        }
        // Three resyncs without a fight.
        try await Task.sleep(for: .seconds(3))
        #expect(!first.log.contains("event=restored") && !second.log.contains("event=restored"))
        #expect(try await lab[1].run(rules) == listed)
        second.signal(SIGTERM)
        #expect(try await second.exitStatus() == 0)
        try await lab[1].run(
            "\(LabDaemon.binary) cleanup --tun-name twill1 --subnet-file \(other)/subnet.env --status-socket \(other)/twilld.sock"
        )
        let left = try await lab[1].run(rules)
        #expect(
            !left.contains("twill1") && left.contains("-A FLANNEL-POSTRTG ")
                && left.contains("-A FLANNEL-FWD "))
        try await first.healed()
    }

    /// iptables of the old kind waits for a lock that all share: a stand-in says what it says then.
    @Test func aHeldLockIsTold() async throws {
        let lab = try await Lab(nodes: 1)
        let program = "\(lab.directory)/bin/iptables"
        try await lab[1].run("mkdir \(lab.directory)/bin")
        try lab.write(
            "bin/iptables",
            """
            #!/bin/sh
            [ "$1" = --version ] || ! [ -e \(lab.directory)/held ] || {
                echo "Another app is currently holding the xtables lock. Stopped waiting after 2s." >&2
                exit 4
            }
            exec iptables "$@"

            """)
        try await lab[1].run("chmod +x \(program) && ln -s $(command -v iptables-restore) \(program)-restore")
        let daemon = try await lab[1].start(
            "--iptables-resync=1", environment: "PATH=\(lab.directory)/bin:$PATH")
        try await daemon.healed()
        try lab.write("held", "")
        try await lab[1].run("iptables -F FLANNEL-FWD")
        try await daemon.problem("iptables waits for /run/xtables.lock, which ", "neither looked at nor set")
        #expect(daemon.status?.isReady == true)
        try await lab[1].run("rm \(lab.directory)/held")
        try await daemon.healed()
        try await lab[1].run("iptables -S FLANNEL-FWD | grep -q ACCEPT")
    }

    /// A program that never ends (a module that cannot be loaded, a file system that hangs) holds up nothing for long.
    @Test func aProgramThatHangsIsTold() async throws {
        let lab = try await Lab(nodes: 1)
        try await lab[1].run("mkdir \(lab.directory)/bin")
        try lab.write(
            "bin/nft",
            "#!/bin/sh\n[ -e \(lab.directory)/hangs ] && exec sleep 100\nPATH=/usr/sbin:/usr/bin exec nft \"$@\"\n"
        )
        try await lab[1].run("chmod +x \(lab.directory)/bin/nft")
        let daemon = try await lab[1].start(
            "--iptables-resync=1", environment: "PATH=\(lab.directory)/bin:$PATH")
        try await daemon.healed()
        try lab.write("hangs", "")
        try await lab[1].run("iptables -F FLANNEL-FWD")
        try await daemon.problem("\(lab.directory)/bin/nft did not end")
        // Meanwhile the rest is kept.
        try await lab[1].run("ip route del 100.96.0.0/16 dev flannel0")
        _ = try await until("the route", { daemon.log }) {
            await lab[1].succeeds("ip route show 100.96.0.0/16 | grep -q flannel0") ? true : nil
        }
        #expect(daemon.status?.isReady == true)
    }

    /// A service manager or a shell that ignores signals passes that on.
    @Test func ignoredSignalsOfTheParentDoNotMatter() async throws {
        let lab = try await Lab(nodes: 1)
        let daemon = try await lab[1].start(
            "--iptables-resync=1", wrapper: "env --ignore-signal=CHLD --ignore-signal=PIPE")
        try await daemon.healed()
        try await lab[1].run("iptables -F FLANNEL-FWD")
        try await daemon.logged("FLANNEL-FWD of table filter changed")
        _ = try await until("the rules", { daemon.log }) {
            await lab[1].succeeds("iptables -S FLANNEL-FWD | grep -q ACCEPT") ? true : nil
        }
    }

    // MARK: cleanup

    @Test func cleanupBesideARunningDaemonRemovesNothing() async throws {
        let lab = try await Lab(nodes: 1)
        let daemon = try await lab.start("--ip-masq")[0]
        let rules = "iptables -t nat -S; iptables -S; cat \(lab[1].directory)/subnet.env"
        let before = try await lab[1].run(rules)
        // Another status socket: the device alone tells.
        let flags = "--subnet-file \(lab[1].directory)/subnet.env --status-socket \(lab.directory)/none.sock"
        let output = try await lab[1].run("\(LabDaemon.binary) cleanup \(flags) || echo status $?")
        #expect(
            output.contains("(process \(daemon.processIdentifier)) holds the device flannel0"), "\(output)")
        #expect(output.contains("status 75") && !output.contains("removed "))
        #expect(try await lab[1].run(rules) == before)
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
        let second = try await lab[1].run("\(LabDaemon.binary) cleanup \(flags)")
        #expect(second.contains("removed iptables chain FLANNEL-POSTRTG of table nat"), "\(second)")
        #expect(try await lab[1].run("\(LabDaemon.binary) cleanup \(flags)") == "nothing to remove\n")
    }

    /// A flanneld of another backend has no TUN device.
    @Test func cleanupBesideARunningFlanneldRemovesNothing() async throws {
        let lab = try await Lab(nodes: 1)
        let file = lab.directory + "/flannel.env"
        try lab.write("flannel.env", "FLANNEL_SUBNET=100.96.9.1/24\n")
        try await lab[1].run(
            "cp $(command -v sleep) \(lab.directory)/flanneld && { \(lab.directory)/flanneld 60 >/dev/null 2>&1 & echo $! >\(lab.directory)/pid; }; iptables -t nat -N FLANNEL-POSTRTG; sleep 0.1"
        )
        let command =
            "\(LabDaemon.binary) cleanup --subnet-file \(file) --status-socket \(lab.directory)/none.sock || echo status $?"
        let output = try await lab[1].run(command)
        #expect(output.contains("flanneld (process ") && output.contains("nothing was removed"), "\(output)")
        #expect(lab.read("flannel.env") != nil)
        try await lab[1].run("iptables -t nat -S FLANNEL-POSTRTG; kill $(cat \(lab.directory)/pid)")
    }
}
