import Counters
import Engines
import Testing

@testable import Worker

/// A worker that hands over: it takes nothing in any more, and nothing that it had is lost or comes twice.
@Suite struct CeasingTests {
    /// Rounds until the worker holds nothing.
    private func cease(_ bench: inout Bench) {
        var rounds = 0
        while !bench.worker.holdsNothing, rounds < 50_000 {
            bench.worker.cease()
            #expect(bench.worker.round() == 0)
            rounds += 1
        }
        let holdsNothing = bench.worker.holdsNothing
        #expect(holdsNothing)
    }

    private func fill(_ bench: inout Bench, _ count: Int) {
        for index in 0..<count {
            bench.fromPod(
                Packets.udp(
                    pod(1), pod(2 + index % 3), payload: [UInt8](repeating: 7, count: 100 + index % 900)))
            bench.fromPeer(
                2 + index % 3,
                Packets.udp(
                    pod(2 + index % 3), pod(1), payload: [UInt8](repeating: 7, count: 100 + index % 900)))
        }
    }

    @Test(arguments: 1...40 as ClosedRange<UInt64>)
    func whatWasTakenInLeavesAndTheRestWaits(seed: UInt64) {
        var bench = Bench(seed: seed)
        bench.kernel.lateness = Int(seed % 3) * 30
        bench.kernel.reluctance = Int(seed % 4) * 20
        fill(&bench, 400)
        for _ in 0..<Int(seed % 9) { #expect(bench.worker.round() == 0) }
        cease(&bench)
        let taken = (400 - bench.kernel.tunnelQueue.count, 400 - bench.kernel.socketQueue.count)
        #expect(bench.kernel.sent.count == taken.0)
        #expect(Int(bench.counters[.packetsDelivered]) == taken.1)
        // What comes now waits.
        fill(&bench, 50)
        for _ in 0..<20 { #expect(bench.worker.round() == 0) }
        #expect(bench.kernel.sent.count == taken.0)
        #expect(bench.kernel.tunnelQueue.count == 450 - taken.0)
        // And goes on where nobody took over.
        bench.worker.resume()
        bench.drain()
        #expect(bench.kernel.sent.count == 450)
        #expect(bench.counters[.packetsDelivered] == 450)
    }

    @Test func anIdleWorkerHoldsNothingSoon() {
        var bench = Bench()
        bench.run()
        let holdsNothing = bench.worker.holdsNothing
        #expect(!holdsNothing)
        cease(&bench)
        bench.worker.resume()
        fill(&bench, 1)
        bench.drain()
        #expect(bench.kernel.sent.count == 1)
    }

    /// Who empties its queue before it rests does not sleep there once it is empty: others wait for it.
    @Test func whoEmptiesItsQueueWaitsForNothing() {
        var bench = Bench()
        fill(&bench, 100)
        bench.worker.beginEmptying()
        let sleeps = bench.kernel.sleeps
        var rounds = 0
        repeat {
            #expect(bench.worker.round() == 0)
            rounds += 1
        } while !(bench.worker.foundTunnelEmpty && bench.kernel.socketQueue.isEmpty) && rounds < 1000
        #expect(bench.kernel.sleeps == sleeps && bench.kernel.tunnelQueue.isEmpty)
        cease(&bench)
        #expect(bench.kernel.sent.count == 100)
    }

    /// What waits for a peer that takes no bursts leaves at that peer's pace.
    @Test func whatWaitsForAPacedPeerLeavesToo() {
        var bench = Bench()
        bench.publication.publish(Bench.routes(paced: [2]))
        bench.run()
        fill(&bench, 60)
        for _ in 0..<2 { #expect(bench.worker.round() == 0) }
        cease(&bench)
        #expect(bench.kernel.sent.count == 60 - bench.kernel.tunnelQueue.count)
    }
}
