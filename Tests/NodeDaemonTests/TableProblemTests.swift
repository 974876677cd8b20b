import Addresses
import Health
import Leases
import Testing

@testable import NodeDaemon

@Suite struct TableProblemTests {
    private func peer(_ number: Int, isTwill: Bool) throws -> Peer {
        Peer(
            subnet: try #require(LeaseSubnet(key: "10.66.\(number).0-24")),
            endpoint: Endpoint(address: IPv4Address(192, 0, 2, 1), port: 8285), isTwill: isTwill)
    }

    private func lease(expiry: ContinuousClock.Instant?) throws -> OwnLease {
        OwnLease(
            subnet: try #require(LeaseSubnet(key: "10.66.28.0-24")),
            endpoint: Endpoint(address: IPv4Address(192, 0, 2, 1), port: 8285), isReservation: expiry == nil,
            acquired: .now, renewed: .now, expiry: expiry)
    }

    @Test func aLeaseThatEndsIsSaidInTime() throws {
        let now = ContinuousClock.now
        let lease = try lease(expiry: now + .seconds(86_400))
        func problem(_ seconds: Int, margin: Int = 3600) -> Problem? {
            TableProblems.expiry(of: lease, margin: .seconds(margin), now: now + .seconds(86_400 - seconds))
        }
        #expect(problem(86_400) == nil)
        // Renewed an hour before the end: that it is not yet is no problem.
        #expect(problem(3600) == nil)
        #expect(problem(1801) == nil)
        #expect(problem(1799)?.effect == .degraded)
        #expect(problem(1799)?.cause.contains("ends in 30 minutes") == true)
        #expect(problem(1)?.effect == .degraded)
        #expect(problem(0)?.effect == .cutOff)
        #expect(problem(-1000)?.effect == .cutOff)
        // With a margin of a minute nothing is wrong a minute before the end.
        #expect(problem(59, margin: 60) == nil)
        #expect(problem(29, margin: 60)?.effect == .degraded)
        #expect(
            TableProblems.expiry(
                of: try self.lease(expiry: nil), margin: .seconds(60), now: now + .seconds(1 << 30))
                == nil)
        #expect(TableProblems.expiry(of: nil, margin: .seconds(60), now: now) == nil)
    }

    @Test func skippedEntriesAreNamedUpToANumber() {
        #expect(TableProblems.skipped([], isCluster: false).isEmpty)
        let few = TableProblems.skipped([SkippedLease(key: "x\u{1b}", reason: "no subnet")], isCluster: false)
        #expect(few.keys.map(\.description) == ["peer x\\u{1b}"])
        #expect(few.values.first?.sentence.contains("no subnet") == true)
        let many = TableProblems.skipped(
            (0..<1000).map { SkippedLease(key: "\($0)", reason: "") }, isCluster: false)
        #expect(many.count == 21)
        #expect(many[Component(.peer, "others")]?.cause.contains("980 more") == true)
    }

    /// In a cluster there is no lease to release.
    @Test func nodesOfAClusterAreCalledSo() {
        let skipped = TableProblems.skipped([SkippedLease(key: "n1", reason: "no")], isCluster: true)
        #expect(skipped[Component(.peer, "n1")]?.cause == "no packet is sent to the node n1: no")
        let sentences = [
            skipped.values.map(\.sentence).joined(),
            TableProblems.tooMany(peers: 65_537, isCluster: true)?.sentence ?? "",
        ]
        for sentence in sentences { #expect(sentence.contains("kubectl") && !sentence.contains("lease")) }
    }

    @Test func entriesThatAreGoodAgainAreNoProblem() {
        let health = NodeHealth()
        let seen = Observation(origin: .init(name: ""), health: health)
        // What others say of peers is theirs.
        health.set(Component(.peer, "theirs"), Problem(.degraded, "away", remedy: ""))
        var table = PeerTable()
        table.skipped = [SkippedLease(key: "x", reason: "no subnet")]
        table.conditions = [Component(.identity): Problem(.degraded, "odd", remedy: "")]
        seen.update(table)
        #expect(health.problems.count == 3)
        seen.update(PeerTable())
        #expect(health.problems.map(\.cause) == ["away"])
    }

    @Test func aPortOfOnesOwnAmongFlanneldNodesIsSaid() throws {
        let twills = [try peer(1, isTwill: true)]
        let others = try (2..<10).map { try peer($0, isTwill: false) }
        #expect(TableProblems.ownPort(nil, networkPort: 8285, others) == nil)
        #expect(TableProblems.ownPort(8285, networkPort: 8285, others) == nil)
        #expect(TableProblems.ownPort(9000, networkPort: 8285, twills) == nil)
        let problem = TableProblems.ownPort(9000, networkPort: 8285, twills + others)
        #expect(problem?.cause.contains("10.66.2.0/24") == true)
        #expect(problem?.cause.contains("and 3 more") == true)
        #expect(problem?.cause.contains("9000") == true && problem?.remedy.contains("--port") == true)
    }

    @Test func morePeersThanThereIsRoomForAreSaid() {
        #expect(TableProblems.tooMany(peers: 65_536, isCluster: false) == nil)
        #expect(TableProblems.tooMany(peers: 65_537, isCluster: false)?.effect == .degraded)
    }
}
