import Glibc
import Kit
import NetworkNamespaces
import Testing

/// The time after a start in which the kernel looks through the kernel path's programs: a thread of its own waits for that,
/// beside all else.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct KernelPathStartTests {
    /// The thread that waits for the check.
    private static let thread = "kernel-path"

    private static func started(on lab: Lab) async throws -> LabDaemon {
        try await lab[1].start("--kernel-path=auto")
    }

    /// Waits until the programs are being looked through.
    private static func checks(_ daemon: LabDaemon) async throws {
        let end = ContinuousClock.now + .seconds(60)
        while daemon.niceValues[thread] == nil {
            try #require(ContinuousClock.now < end, "no program was looked through: \(daemon.log)")
        }
    }

    /// What gives way for good would hardly run on a full CPU: the hellos would be late, and peers send nothing by the kernel path.
    /// The thread that answers operators goes ahead of others.
    @Test func theCheckGivesWayAndNoThreadThatStaysDoes() async throws {
        let lab = try await Lab(nodes: 1)
        let daemon = try await Self.started(on: lab)
        try await Self.checks(daemon)
        #expect((daemon.niceValues[Self.thread] ?? [10]) == [10])
        let own = getpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0)
        try await daemon.wait(for: "its kernel path") { $0.kernelPath?.state == "on" }
        let values = try await until("the end of the check", { "\(daemon.niceValues)" }) {
            let values = daemon.niceValues
            return values[Self.thread] == nil && values.keys.contains("hello") ? values : nil
        }
        #expect(values.values.joined().allSatisfy { $0 <= Int(own) }, "\(values)")
    }

    @Test(arguments: [SIGTERM, SIGKILL]) func anEndInTheMidstOfItLeavesTheNextOneTheSame(
        signal: Int32
    ) async throws {
        let lab = try await Lab(nodes: 1)
        let daemon = try await Self.started(on: lab)
        try await Self.checks(daemon)
        daemon.signal(signal)
        #expect(try await daemon.exitStatus() == (signal == SIGKILL ? 128 + Int(SIGKILL) : 0))
        let next = try await Self.started(on: lab)
        try await next.wait(for: "its kernel path") { $0.isReady && $0.kernelPath?.state == "on" }
        #expect(try #require(next.status).problems.isEmpty)
        let filters = try await lab[1].run("tc filter show dev eth0 ingress")
        let names = filters.split(separator: " ").filter { $0.hasPrefix("twill_inbound_") }
        #expect(names.count == 1, "\(filters)")
    }
}
