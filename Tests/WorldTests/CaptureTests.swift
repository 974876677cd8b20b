import FoundationEssentials
import Glibc
import Kit
import NetworkNamespaces
import Telemetry
import Testing

/// What `twilld capture`, `trace`, `bugreport` and `status` show of the packets of a real daemon.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct CaptureTests {
    private func start(_ lab: Lab) async throws -> (daemons: [LabDaemon], pods: [LabPod]) {
        let daemons = try await lab.start("--kernel-path=off")
        var pods: [LabPod] = []
        for (node, daemon) in zip(lab.nodes, daemons) {
            let status = try await daemon.wait(for: "ready with its peer") {
                $0.isReady && $0.peers.count == 1
            }
            pods.append(try await node.addPod(in: try #require(status.lease?.subnet)))
        }
        return (daemons, pods)
    }

    private func twilld(_ words: String, on node: LabNode) -> String {
        "\(LabDaemon.binary) \(words) --status-socket \(node.directory)/twilld.sock"
    }

    @Test func whatIsDroppedIsShownWithTheReason() async throws {
        let lab = try await Lab()
        let (daemons, pods) = try await start(lab)
        let capture = try await lab[1].launch(twilld("capture --dropped", on: lab[1]))
        // Nobody's subnet, and a neighbour that answers; again until the capture has begun.
        let lines = try await until("a line of the capture", { capture.errors }) {
            try await pods[0].run(
                "ping -c 1 -W 1 100.96.250.9 || true; ping -c 1 -W 10 \(pods[1].address) >/dev/null")
            let lines = capture.output.split(separator: "\n")
            return lines.isEmpty ? nil : lines
        }
        capture.signal(SIGTERM)
        for line in lines {
            #expect(
                line.contains(
                    "dropped →  \(pods[0].address) > 100.96.250.9 ICMP, 84 bytes, drop_outbound_no_route"),
                "\(lines)")
        }
        // The status has it, too, for as long as no later ones take its place.
        let status = try #require(daemons[0].status)
        let offender = try #require(status.offenders?.first { $0.reason == "drop_outbound_no_route" })
        #expect(offender.source == "\(pods[0].address)" && offender.destination == "100.96.250.9")
        #expect(status.schema == NodeStatus.schemaVersion)
        #expect(status.engine?.workers == 1)
    }

    @Test func aFileHasEachPacketBeforeAndAfterTheTunnel() async throws {
        let lab = try await Lab()
        let (_, pods) = try await start(lab)
        let file = "\(lab[1].directory)/capture.pcapng"
        let capture = try await lab[1].launch(
            twilld("capture --host \(pods[1].address) -w \(file)", on: lab[1]))
        // The file's head is written as soon as it has begun.
        _ = try await until("the head of the file", { capture.errors }) {
            await lab[1].succeeds("test -s \(file)") ? true : nil
        }
        // One at a time.
        let second = try await lab[1].run(
            "\(twilld("capture --seconds 1", on: lab[1])) 2>&1 || echo status $?")
        #expect(second.contains("another capture goes on") && second.contains("status 69"), "\(second)")
        try await pods[0].run("ping -c 2 -i 0.2 -W 10 \(pods[1].address) >/dev/null")
        let text = try await until("the packets of two questions and answers") {
            // The file's last packet may be written in part.
            let text = try await lab[1].run("tcpdump -nr \(file) 2>/dev/null || true")
            return text.split(separator: "\n").count >= 8 ? text : nil
        }
        capture.signal(SIGTERM)
        _ = try await capture.exitStatus()
        func count(_ words: String) -> Int { text.split(separator: "\n").count { $0.contains(words) } }
        #expect(count("IP \(pods[0].address) > \(pods[1].address): ICMP echo request") == 2, "\(text)")
        #expect(count("IP \(pods[1].address) > \(pods[0].address): ICMP echo reply") == 2, "\(text)")
        #expect(count("IP \(lab[1].address).8285 > \(lab[2].address).8285: UDP, length 84") == 2, "\(text)")
        #expect(count("IP \(lab[2].address).8285 > \(lab[1].address).8285: UDP, length 84") == 2, "\(text)")
        #expect(text.split(separator: "\n").count == 8, "\(text)")
        // It has ended, so that another one can begin; and nothing else of the daemon waits for it.
        _ = try await until("the daemon to let the next capture begin") {
            await lab[1].succeeds(twilld("capture --seconds 1 --json", on: lab[1])) ? true : nil
        }
    }

    @Test func aTraceTimesPacketsBothWays() async throws {
        let lab = try await Lab()
        let (_, pods) = try await start(lab)
        try await pods[0].run("ping -q -c 30 -i 0.05 \(pods[1].address) >/dev/null 2>&1 & sleep 0.2")
        let text = try await lab[1].run(twilld("trace --seconds 2 --json", on: lab[1]))
        let trace = try JSONDecoder().decode(TimeTrace.self, from: Data(text.utf8))
        #expect(trace.stages.count == 4)
        for stage in trace.stages {
            #expect(stage.samples >= 10 && stage.samples <= 60, "\(stage)")
            #expect((stage.mean ?? 0) > 0 && (stage.mean ?? .infinity) < trace.seconds, "\(stage)")
        }
    }

    @Test func aReportHasWhatIsKnownAndNoPassword() async throws {
        let lab = try await Lab()
        let daemon = try await lab[1].start("--etcd-password=verysecret --etcd-username somebody")
        try await daemon.ready()
        let file = "\(lab[1].directory)/report.tar"
        try await lab[1].run(
            twilld("bugreport --subnet-file \(lab[1].directory)/subnet.env \(file)", on: lab[1])
                + " 2>/dev/null")
        let names = try await lab[1].run("tar tf \(file) | sed 's,.*/,,'").split(separator: "\n").map(
            String.init)
        for name in [
            "version.txt", "doctor.txt", "status.json", "metrics.txt", "routes.txt", "daemon-limits.txt",
        ] {
            #expect(names.contains(name), "\(names)")
        }
        let text = try await lab[1].run("tar xOf \(file)")
        #expect(text.contains("--etcd-password=(redacted)") && !text.contains("verysecret"))
        #expect(text.contains("FLANNEL_SUBNET=") && text.contains("twill_packets_sent_total"))
        // What is there is not overwritten.
        let again = try await lab[1].run(
            twilld("bugreport \(file)", on: lab[1]) + " 2>&1 || echo status $?")
        #expect(again.contains("can't be written") && again.contains("status 64"), "\(again)")
    }
}
