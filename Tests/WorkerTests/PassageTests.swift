import Counters
import Forwarding
import Glibc
import Testing

@testable import Worker

/// What a worker says to the kernel path's programs of what they left to it.
@Suite struct PassageTests {
    /// The memory that the programs share with the workers, and what the programs do there.
    private final class Programs {
        private static let byteCount = 2 * KernelPathTraffic.workerLimit * KernelPathPassage.byteCount
        private let memory: UnsafeMutableRawPointer

        init() {
            memory = .allocate(byteCount: 8 + Programs.byteCount, alignment: 64)
            memset(memory, 0, 8 + Programs.byteCount)
        }

        deinit { memory.deallocate() }

        var traffic: KernelPathTraffic { KernelPathTraffic(memory, passages: memory + 8) }

        func passage(_ way: KernelPathTraffic.Way, ofWorker worker: Int = 0) -> KernelPathPassage {
            traffic.passage(way, ofWorker: worker)!
        }

        private func field(_ way: KernelPathTraffic.Way, _ worker: Int, _ offset: Int)
            -> UnsafeMutablePointer<UInt64>
        {
            let place = way.rawValue * KernelPathTraffic.workerLimit + worker
            return (memory + 8 + place * KernelPathPassage.byteCount + offset)
                .assumingMemoryBound(to: UInt64.self)
        }

        /// Counts packets that are left to a worker, and gives a ticket for them.
        @discardableResult
        func leave(_ way: KernelPathTraffic.Way, ofWorker worker: Int = 0, packets: UInt64 = 1) -> UInt64 {
            field(way, worker, KernelPathPassage.Offset.entered).pointee += packets
            field(way, 0, KernelPathPassage.Offset.tickets).pointee += 1
            return field(way, 0, KernelPathPassage.Offset.tickets).pointee
        }

        /// Has a flow wait for a ticket.
        func want(_ way: KernelPathTraffic.Way, ofWorker worker: Int = 0, _ ticket: UInt64) {
            field(way, worker, KernelPathPassage.Offset.wanted).pointee = ticket
        }
    }

    private func toPeer() -> [UInt8] { Packets.udp(pod(1), pod(3), payload: [1, 2, 3]) }
    private func fromPeer() -> [UInt8] { Packets.udp(pod(3), pod(1), payload: [1, 2, 3]) }

    @Test func whatIsSentIsThroughAndNotBefore() {
        let programs = Programs()
        let passage = programs.passage(.out)
        var bench = Bench(kernelPathTraffic: programs.traffic)
        bench.run()
        programs.want(.out, programs.leave(.out))
        bench.fromPod(toPeer())
        // Sends end late: what was read is held until then.
        bench.kernel.lateness = 100
        bench.run(rounds: 20)
        #expect(bench.kernel.sent.isEmpty && bench.kernel.tunnelQueue.isEmpty)
        #expect(passage.through == 0)
        bench.kernel.lateness = 0
        bench.run()
        #expect(bench.kernel.sent.count == 1)
        #expect(passage.through == 1)
    }

    @Test func whatIsWrittenIsThroughAndNotBefore() {
        let programs = Programs()
        let passage = programs.passage(.in)
        var bench = Bench(kernelPathTraffic: programs.traffic)
        bench.run()
        let ticket = programs.leave(.in, packets: 3)
        programs.want(.in, ticket)
        bench.fromPeer(3, fromPeer() + fromPeer() + fromPeer(), segmentBytes: fromPeer().count)
        bench.kernel.lateness = 100
        bench.run(rounds: 20)
        #expect(bench.kernel.socketQueue.isEmpty && bench.kernel.written.isEmpty)
        #expect(passage.through == 0)
        bench.kernel.lateness = 0
        bench.run()
        #expect(!bench.kernel.written.isEmpty)
        #expect(passage.through == ticket)
        // What goes the other way is another's.
        #expect(programs.passage(.out).through == 0)
    }

    /// Bulk that waits in the worker's own queues, for its turn or for a peer's pace.
    @Test(arguments: [false, true])
    func whatWaitsInTheWorkerIsNotThrough(isPaced: Bool) {
        let programs = Programs()
        let passage = programs.passage(.out)
        var bench = Bench(kernelPathTraffic: programs.traffic)
        if isPaced { bench.publication.publish(Bench.routes(paced: [3])) }
        // Until the worker reads in full bursts.
        for _ in 0..<200 { bench.fromPod(toPeer()) }
        bench.drain()
        bench.kernel.sent = []
        // Somebody waits for an answer, so that all that comes is read, and waits in here.
        if !isPaced { bench.worker.shortRoundsUntilNanoseconds = .max }
        let large = Packets.tcp(
            pod(1), pod(3), sequence: 1, payload: [UInt8](repeating: 7, count: 44 * 1400))
        for _ in 0..<40 {
            programs.want(.out, programs.leave(.out))
            // virtio_net_hdr: flags, type, header length, segment size, checksum start, checksum offset.
            bench.fromPod(large, header: [1, 1, 40, 0, 0x78, 0x05, 20, 0, 16, 0])
        }
        var wasHeld = 0
        for _ in 0..<50_000 where bench.kernel.sent.count < 40 * 44 {
            bench.run(rounds: 1)
            if bench.worker.waitingReads.count + bench.worker.pacedReads.count > 0 {
                wasHeld += 1
                #expect(passage.through == 0)
            }
        }
        #expect(wasHeld > 0)
        bench.run()
        #expect(passage.through == 40)
    }

    /// Whatever ends late, fails or is taken in part: nothing is through that was not sent, written or dropped.
    @Test(arguments: 1...40 as ClosedRange<UInt64>)
    func nothingIsThroughThatIsUnderWay(seed: UInt64) {
        let programs = Programs()
        var bench = Bench(seed: seed, coalesces: false, kernelPathTraffic: programs.traffic)
        bench.kernel.lateness = Int(seed % 4) * 25
        bench.kernel.reluctance = Int(seed % 3) * 30
        bench.kernel.readFailurePercent = Int(seed % 5) * 5
        var left = (out: 0, in: 0)
        for step in 0..<400 {
            if step < 300, bench.kernel.generator.chance(40) {
                programs.want(.out, programs.leave(.out))
                bench.fromPod(toPeer())
                left.out += 1
            }
            if step < 300, bench.kernel.generator.chance(40) {
                programs.want(.in, programs.leave(.in))
                bench.fromPeer(3, fromPeer())
                left.in += 1
            }
            bench.run(rounds: 1)
            #expect(Int(programs.passage(.out).through) <= bench.kernel.sent.count)
            #expect(Int(programs.passage(.in).through) <= bench.kernel.written.count)
        }
        bench.kernel.lateness = 0
        bench.kernel.reluctance = 0
        bench.kernel.readFailurePercent = 0
        bench.drain()
        #expect(Int(programs.passage(.out).through) == left.out)
        #expect(Int(programs.passage(.in).through) == left.in)
    }

    @Test func whatIsOnItsWayToTheQueueIsNotThrough() {
        let programs = Programs()
        let passage = programs.passage(.out)
        var bench = Bench(kernelPathTraffic: programs.traffic)
        programs.leave(.out)
        programs.want(.out, programs.leave(.out))
        bench.fromPod(toPeer())
        bench.run(rounds: 12)
        #expect(bench.kernel.sent.count == 1)
        #expect(passage.through == 0)
        bench.fromPod(toPeer())
        bench.run(rounds: 12)
        #expect(passage.through == 2)
    }

    /// A queue was full. It is not given up at once, nor while it may still come.
    @Test func whatIsLostIsNotMissedForEver() {
        let programs = Programs()
        let passage = programs.passage(.out)
        var bench = Bench(kernelPathTraffic: programs.traffic)
        programs.leave(.out)
        func exchange() {
            programs.want(.out, programs.leave(.out))
            bench.fromPod(toPeer())
            bench.run(rounds: 4)
        }
        for _ in 0..<WorkerLimits.lostLooks { exchange() }
        #expect(passage.through == 0)
        bench.kernel.nowNanoseconds += WorkerLimits.lostNanoseconds
        exchange()
        exchange()
        #expect(passage.through == passage.lastTicket)
        // And in time alone, without as many looks, nothing is.
        programs.leave(.out)
        exchange()
        bench.kernel.nowNanoseconds += 2 * WorkerLimits.lostNanoseconds
        exchange()
        #expect(passage.through < passage.lastTicket)
    }

    /// Somebody put a packet into the device past the programs: it does not stand for one that is on its way.
    @Test func whatNobodyCountedIsForgotten() {
        let programs = Programs()
        let passage = programs.passage(.out)
        var bench = Bench(kernelPathTraffic: programs.traffic)
        func exchange() {
            programs.want(.out, programs.leave(.out))
            bench.fromPod(toPeer())
            bench.run(rounds: 12)
        }
        bench.fromPod(toPeer())
        exchange()
        #expect(bench.kernel.sent.count == 2 && passage.through == 1)
        programs.want(.out, programs.leave(.out))
        bench.run(rounds: 12)
        #expect(passage.through == 1)
        bench.fromPod(toPeer())
        bench.run(rounds: 12)
        #expect(passage.through == 2)
    }

    @Test func whatCameBeforeAnybodyCountedStandsForNothing() {
        let programs = Programs()
        let passage = programs.passage(.out)
        var bench = Bench(kernelPathTraffic: programs.traffic)
        bench.fromPod(toPeer())
        bench.run(rounds: 12)
        bench.worker.beginPassages()
        programs.want(.out, programs.leave(.out))
        bench.run(rounds: 12)
        #expect(passage.through == 0)
        bench.fromPod(toPeer())
        bench.run(rounds: 12)
        #expect(passage.through == 1)
    }

    /// Two wait, of which one read takes the first; a third came that nobody counted.
    @Test func whatStillWaitsIsNotThroughWhateverTheCount() {
        let programs = Programs()
        let passage = programs.passage(.out)
        var bench = Bench(kernelPathTraffic: programs.traffic)
        bench.fromPod(toPeer())
        bench.run(rounds: 12)
        programs.leave(.out)
        programs.want(.out, programs.leave(.out))
        bench.fromPod(toPeer())
        bench.fromPod(toPeer())
        while !bench.kernel.tunnelQueue.isEmpty {
            bench.run(rounds: 1)
            #expect(passage.through == 0)
        }
    }

    /// A packet that the kernel could not give was taken from the queue all the same.
    @Test func whatTheDeviceDropsIsThrough() {
        let programs = Programs()
        var bench = Bench(kernelPathTraffic: programs.traffic)
        bench.run()
        programs.want(.out, programs.leave(.out))
        bench.kernel.readErrors = [EINVAL]
        bench.run()
        #expect(programs.passage(.out).through == 1)
    }

    /// One call more, once, and only where a flow waits for the word.
    @Test(arguments: [false, true])
    func whoIsNotAskedMakesNoCallMore(isWanted: Bool) {
        let programs = Programs()
        var (enters, sleeps) = (0, 0)
        for isCounted in [false, true] {
            var bench = Bench(kernelPathTraffic: isCounted ? programs.traffic : nil)
            bench.run()
            let before = (bench.kernel.enters, bench.counters[.sleeps])
            let ticket = programs.leave(.out)
            if isWanted { programs.want(.out, ticket) }
            bench.fromPod(toPeer())
            // As many rounds as it takes until the worker sleeps for what comes next.
            while bench.kernel.sent.isEmpty || bench.counters[.sleeps] < before.1 + 2 { bench.run(rounds: 1) }
            let made = (bench.kernel.enters - before.0, Int(bench.counters[.sleeps] - before.1))
            if isCounted {
                #expect(made.0 == enters + (isWanted ? 1 : 0))
                #expect(made.1 == sleeps)
            }
            (enters, sleeps) = made
        }
    }

    /// A thread that was started in another's place goes on with its count; so does each worker with its own.
    @Test func whoGoesOnInAnothersPlaceKnowsWhatWasTaken() {
        let programs = Programs()
        let passage = programs.passage(.out, ofWorker: 5)
        for round in 1...3 as ClosedRange<UInt64> {
            var bench = Bench(kernelPathTraffic: programs.traffic, index: 5)
            bench.run()
            programs.want(.out, ofWorker: 5, programs.leave(.out, ofWorker: 5))
            bench.fromPod(toPeer())
            bench.drain()
            #expect(passage.through == round)
        }
        #expect(programs.passage(.out).through == 0)
    }
}
