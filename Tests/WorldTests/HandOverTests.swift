import Counters
import FoundationEssentials
import Glibc
import Kit
import NetworkNamespaces
import Telemetry
import Testing

/// A node's daemon is followed by another, or by other settings, while packets flow: none is lost, none comes twice, none
/// passes another.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct HandOverTests {
    /// Two nodes with a pod each, and numbered datagrams both ways between them.
    private final class Stage {
        let lab: Lab
        let pods: [LabPod]
        var daemon: LabDaemon
        let peer: LabDaemon
        private let traffic: [NumberedTraffic]

        /// Flows with a packet every 8 ms, and others with one every 50 ms, which find the packet threads done with the one before
        /// where these are in time, and still at it where they are not.
        init(
            _ configuration: String = "workers = 1\n", families: Lab.Families = .ipv4, wrapper: String = ""
        ) async throws {
            lab = try await Lab(
                config: Lab.configuration(of: families), families: families)
            try lab.write("twilld.conf", configuration)
            daemon = try await lab[1].start(
                "--config \(lab.directory)/twilld.conf", wrapper: wrapper)
            peer = try await lab[2].start()
            var pods: [LabPod] = []
            for (node, daemon) in zip(lab.nodes, [daemon, peer]) {
                // Small packets of flows that begin now go by the kernel path.
                let status = try await until("an able peer", { daemon.log }) { () -> NodeStatus? in
                    guard let status = daemon.status, status.isReady, status.peers.count == 1,
                        status.kernelPath?.state == "on", status.peers.first?.kernelPath == true
                    else { return nil }
                    return status
                }
                pods.append(try await node.addPod(in: try #require(status.lease?.subnet)))
            }
            self.pods = pods
            // A veth without GRO queues a packet on the CPU that sent it: a sender that moves to another overtakes itself.
            for (node, pod) in zip(lab.nodes, pods) {
                try await node.run("ethtool -K pod2 gro on")
                try await pod.run("ethtool -K eth0 gro on")
            }
            try await pods[0].reaches(pods[1].address)
            traffic = [
                try await NumberedTraffic.start(from: pods[0], to: pods[1], rate: 2000),
                try await NumberedTraffic.start(from: pods[1], to: pods[0], rate: 2000),
                try await NumberedTraffic.start(from: pods[0], to: pods[1], rate: 320, port: 9998),
                try await NumberedTraffic.start(from: pods[1], to: pods[0], rate: 320, port: 9998),
            ]
            for traffic in traffic { try await traffic.flows() }
        }

        /// Starts another daemon with the same flags.
        func startAnother(_ flags: String = "") async throws -> LabDaemon {
            try await lab[1].start("--config \(lab.directory)/twilld.conf \(flags)")
        }

        /// The number of the tunnel device: another device of that name would have another one.
        var tunnelIndex: Int {
            get async throws { try #require(try await lab[1].interface("flannel0")?.index) }
        }

        func reload(_ configuration: String) async throws {
            let before = daemon.count(of: "event=data_plane_replaced")
            try lab.write("twilld.conf", configuration)
            daemon.signal(SIGHUP)
            _ = try await until("another data plane", { self.daemon.log }) {
                daemon.count(of: "event=data_plane_replaced") > before ? true : nil
            }
            // Packets go by it.
            try await Task.sleep(for: .milliseconds(300))
        }

        func expectNothingLost() async throws {
            for traffic in traffic {
                let report = await traffic.end()
                #expect(report.sent > 0)
                #expect(report.lost == 0 && report.duplicated == 0 && report.reordered == 0, "\(report)")
            }
            #expect(daemon.counter(.kernelPathPacketsSent) > 0)
            #expect(daemon.counter(.kernelPathPacketsReceived) > 0)
        }
    }

    @Test(arguments: [Lab.Families.ipv4, .ipv6])
    func anotherDaemonTakesOverAndNothingIsLost(families: Lab.Families) async throws {
        let stage = try await Stage(families: families)
        let before = try #require(stage.daemon.status)
        let index = try await stage.tunnelIndex
        for _ in 0..<2 {
            let next = try await stage.startAnother()
            let status = try await next.ready()
            #expect(try await stage.daemon.exitStatus() == 0)
            #expect(stage.daemon.log.contains("event=handed_over"))
            #expect(next.log.contains("event=taken_over"))
            #expect(status.lease?.subnet == before.lease?.subnet)
            #expect(status.value(of: .packetsSent) >= before.value(of: .packetsSent))
            #expect(status.peers.first?.traffic?.sent.packets ?? 0 > 0)
            stage.daemon = next
        }
        try await stage.expectNothingLost()
        #expect(try await stage.tunnelIndex == index)
        #expect(stage.daemon.status?.problems == [])
    }

    @Test func aNewDaemonThatEndsOnTheWayCostsNothing() async throws {
        let stage = try await Stage()
        for step in HandOverClient.Step.allCases {
            try await HandOverClient.stop(
                at: step, "\(stage.lab[1].directory)/twilld.sock.handover", stage.lab[1])
        }
        // And one that comes after all of those takes over.
        let next = try await stage.startAnother()
        try await next.ready()
        try await stage.expectNothingLost()
        #expect(stage.daemon.log.contains("event=hand_over_failed"))
    }

    @Test(arguments: [Lab.Families.ipv4, .ipv6])
    func portWorkersAndTuningChangeBySIGHUPWithoutALoss(families: Lab.Families) async throws {
        let stage = try await Stage(families: families)
        try await stage.reload("workers = 2\n")
        try await stage.reload("workers = 3\nbatch = 32\n")
        try await stage.reload("workers = 1\nengine = mmsg\n")
        try await stage.reload("workers = 1\nport = 9285\n")
        try await stage.peer.wait(for: "the other's port") {
            $0.peers.first?.endpoint.hasSuffix(":9285") == true
        }
        try await Task.sleep(for: .milliseconds(300))
        try await stage.expectNothingLost()
        let log = stage.daemon.log
        #expect(log.contains("taken_over=workers"))
        #expect(log.contains("taken_over=engine,port"))
        #expect(stage.daemon.status?.problems == [])
    }

    /// They have short ones while they may have to catch up (`TimeSliceTests`); bulk is slower with those.
    @Test(.enabled(if: LabDaemon.timeSlicesAreTold, "threads have slices of their own since Linux 6.12"))
    func packetThreadsHaveTheKernelsTurnsAfterAStart() async throws {
        let lab = try await Lab(nodes: 1)
        let daemon = try await lab[1].start()
        try await daemon.ready()
        let usual = try #require(daemon.timeSlice(ofThread: "twilld"))
        _ = try await until("a packet thread with the usual slice", { daemon.log }) {
            daemon.timeSlice(ofThread: "worker 0") == usual ? true : nil
        }
    }

    @Test func whoIsNotToTakeOverDoesNotStart() async throws {
        let stage = try await Stage()
        let second = try await stage.startAnother("--no-takeover")
        #expect(try await second.exitStatus() == 75)
        #expect(second.log.contains("answers at"))
        // Nor does another node's daemon that is given the same socket.
        let other = try await stage.startAnother("--tun-name other0")
        #expect(try await other.exitStatus() == 75)
        #expect(other.log.contains("it is another node's"))
        try await stage.expectNothingLost()
    }

    /// By a small stand-in for systemd, which keeps descriptors and starts the service again (Kit/ServiceKeeper.swift).
    @Test(arguments: [SIGKILL, SIGTERM])
    func whatTheServiceManagerKeepsIsTakenUpAgain(signal: Int32) async throws {
        let keeper = try #require(Self.keeper)
        let socket = "/tmp/twill-notify-\(UInt32.random(in: 0...UInt32.max))"
        defer { unlink(socket) }
        let stage = try await Stage(wrapper: "\(keeper) --keep \(socket)")
        let before = try #require(stage.daemon.status)
        let index = try await stage.tunnelIndex
        // They are stored within a second. The counts are stored anew every 10 s, and at the end where that is told.
        try await Task.sleep(for: .seconds(signal == SIGKILL ? 12 : 2))
        kill(before.processIdentifier, signal)
        let status = try await until("the next process", { stage.daemon.log }) { () -> NodeStatus? in
            guard let status = stage.daemon.status, status.isReady,
                status.processIdentifier != before.processIdentifier
            else { return nil }
            return status
        }
        #expect(stage.daemon.log.contains("event=inherited"))
        #expect(try await stage.tunnelIndex == index)
        #expect(status.lease?.subnet == before.lease?.subnet)
        #expect(status.value(of: .packetsSent) >= before.value(of: .packetsSent))
        // At this rate the queues hold what comes while nobody reads.
        if signal == SIGTERM { try await stage.expectNothingLost() }
        stage.daemon.signal(SIGTERM)
        _ = try await stage.daemon.exitStatus()
    }

    /// The second worker sends from the port behind the network's, and a service manager has a copy of what it sends on, as it
    /// has of what was received on before.
    @Test(arguments: [false, true])
    func aPortThatTheNodeHasAlreadyBecomesTheNetworks(isKept: Bool) async throws {
        let keeper = try #require(Self.keeper)
        let socket = "/tmp/twill-notify-\(UInt32.random(in: 0...UInt32.max))"
        defer { unlink(socket) }
        let stage = try await Stage("workers = 2\n", wrapper: isKept ? "\(keeper) --keep \(socket)" : "")
        let process = try #require(stage.daemon.status).processIdentifier
        if isKept { try await Task.sleep(for: .seconds(2)) }
        for port in [8286, 8285] {
            try stage.lab.write("twilld.conf", "workers = 2\nport = \(port)\n")
            kill(process, SIGHUP)
            _ = try await until("port \(port)", { stage.daemon.log }) { () -> Bool? in
                guard let status = stage.daemon.status,
                    status.underlay?.endpoint.hasSuffix(":\(port)") == true
                else { return nil }
                return status.engine?.workers == 2 && status.problems.isEmpty ? true : nil
            }
            // Its peer hears of it, and the store has what there is now.
            try await Task.sleep(for: .seconds(2))
        }
        try await stage.expectNothingLost()
        stage.daemon.signal(SIGTERM)
        _ = try await stage.daemon.exitStatus()
    }

    /// A service manager that is slow has a copy of the port still when it is wanted. Until it has not, others send where they
    /// sent before.
    @Test func anotherPortIsAnnouncedOnceItIsOpen() async throws {
        let keeper = try #require(Self.keeper)
        let socket = "/tmp/twill-notify-\(UInt32.random(in: 0...UInt32.max))"
        defer { unlink(socket) }
        let stage = try await Stage("workers = 2\n", wrapper: "\(keeper) --keep \(socket)")
        let process = try #require(stage.daemon.status).processIdentifier
        // It has been given all that it is to keep.
        try await Task.sleep(for: .seconds(2))
        stage.daemon.signal(SIGSTOP)
        do {
            defer { stage.daemon.signal(SIGCONT) }
            try stage.lab.write("twilld.conf", "workers = 2\nport = 8286\n")
            kill(process, SIGHUP)
            _ = try await until("half the way", { stage.daemon.log }) {
                stage.daemon.log.contains("event=data_plane_replaced bound=\(stage.lab[1].address):8285")
                    ? true : nil
            }
            try await Task.sleep(for: .seconds(1))
            #expect(stage.peer.status?.peers.first?.endpoint == "\(stage.lab[1].address):8285")
        }
        _ = try await until("its peer sends to the new port", { stage.daemon.log }) {
            stage.peer.status?.peers.first?.endpoint == "\(stage.lab[1].address):8286" ? true : nil
        }
        try await Task.sleep(for: .milliseconds(300))
        try await stage.expectNothingLost()
        stage.daemon.signal(SIGTERM)
        _ = try await stage.daemon.exitStatus()
    }

    /// Each node hears of the network's port by itself, and one has it open seconds after the other: the service manager of the one
    /// has a copy of it.
    @Test func theNetworkHasAnotherPortAndNothingIsLost() async throws {
        let keeper = try #require(Self.keeper)
        let socket = "/tmp/twill-notify-\(UInt32.random(in: 0...UInt32.max))"
        defer { unlink(socket) }
        let stage = try await Stage("workers = 2\n", wrapper: "\(keeper) --keep \(socket)")
        // It has been given all that it is to keep.
        try await Task.sleep(for: .seconds(2))
        stage.daemon.signal(SIGSTOP)
        do {
            defer { stage.daemon.signal(SIGCONT) }
            try stage.lab.write(
                "store/config", #"{"Network": "100.96.0.0/16", "Backend": {"Type": "udp", "Port": 8286}}"#)
            _ = try await until("one has it, and the other not", { stage.daemon.log }) {
                stage.daemon.log.contains("event=data_plane_replaced bound=\(stage.lab[1].address):8285")
                    && stage.peer.status?.underlay?.endpoint.hasSuffix(":8286") == true ? true : nil
            }
            #expect(stage.peer.status?.peers.first?.endpoint == "\(stage.lab[1].address):8285")
        }
        _ = try await until("both have it and send to it", { stage.daemon.log }) {
            [stage.daemon, stage.peer].allSatisfy { daemon in
                daemon.status?.underlay?.endpoint.hasSuffix(":8286") == true
                    && daemon.status?.peers.first?.endpoint.hasSuffix(":8286") == true
            } ? true : nil
        }
        try await Task.sleep(for: .milliseconds(300))
        try await stage.expectNothingLost()
        stage.daemon.signal(SIGTERM)
        _ = try await stage.daemon.exitStatus()
    }

    private static var keeper: String? {
        let path = String(LabDaemon.binary.prefix { _ in true })
        let directory = path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "."
        let tests = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
        let beside = tests.lastIndex(of: "/").map { String(tests[..<$0]) } ?? "."
        return [directory, beside].map { $0 + "/twill-upgrade" }.first { access($0, X_OK) == 0 }
    }

    @Test(arguments: ["keep", "remove"])
    func whatAStopLeavesIsAChoice(action: String) async throws {
        let lab = try await Lab()
        let daemon = try await lab[1].start("--on-stop=\(action)")
        try await daemon.ready()
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
        let device = try await lab[1].interface("flannel0")
        let route = try await lab[1].routes().contains { $0.interface == "flannel0" }
        #expect((device != nil) == (action == "keep") && route == (action == "keep"))
        // The next one has the same device, and its own end of it.
        let next = try await lab[1].start("--on-stop=remove")
        try await next.ready()
        if device != nil { #expect(!next.log.contains("waiting_for_the_tunnel_device")) }
        next.signal(SIGTERM)
        #expect(try await next.exitStatus() == 0)
        #expect(try await lab[1].interface("flannel0") == nil)
    }

    @Test func whoIsKilledLeavesTheDeviceWithItsRoutes() async throws {
        let lab = try await Lab()
        let daemon = try await lab[1].start()
        try await daemon.ready()
        let index = try await lab[1].interface("flannel0")?.index
        daemon.signal(SIGKILL)
        _ = try await daemon.exitStatus()
        #expect(try await lab[1].routes().contains { $0.interface == "flannel0" })
        let next = try await lab[1].start()
        try await next.ready()
        #expect(try await lab[1].interface("flannel0")?.index == index)
        next.signal(SIGKILL)
        _ = try await next.exitStatus()
        try await lab[1].run(
            "\(LabDaemon.binary) cleanup --subnet-file \(lab[1].directory)/subnet.env --status-socket \(lab[1].directory)/twilld.sock"
        )
        #expect(try await lab[1].interface("flannel0") == nil)
    }
}
