import Counters
import Testing

@testable import NodeDaemon

@Suite("Why packets found no room")
struct LossWatchTests {
    /// A data plane's counters and the machine's processors, a second at a time.
    private final class World {
        let block = CounterBlock.allocate()
        var watch = LossWatch()
        var now = ContinuousClock.now
        private var wait: UInt64 = 1_000_000
        private var pressure: UInt64 = 1_000_000
        private var steal: (UInt64, UInt64) = (100, 10_000)

        deinit { block.deallocate() }

        var totals: CounterTotals { CounterTotals([block]) }

        /// - Parameters:
        ///   - waiting: the share of the second in which a packet thread waited for a processor.
        ///   - stolen: that which the hypervisor took.
        ///   - pressed: that in which some program waited.
        func pass(
            lost: Int = 0, carried: Int = 10_000, waiting: Double = 0.001, stolen: Double = 0,
            pressed: Double = 0.5
        ) {
            now += .seconds(1)
            wait += UInt64(waiting * 1e9)
            pressure += UInt64(pressed * 1e6)
            steal = (steal.0 + UInt64(stolen * 200), steal.1 + 200)
            block.add(.packetsSent, carried)
            block.add(.dropInboundSocketFull, lost)
            if lost > 0 { block.add(.dropOutboundNoRoute) }
            let times = ProcessorTimes(
                pressure: "some avg10=1.00 avg60=1.00 avg300=1.00 total=\(pressure)\nfull total=0\n",
                statistics: "cpu  0 0 0 \(steal.1 - steal.0) 0 0 0 \(steal.0) 0 0\ncpu0 1 1\n",
                threads: ["5 \(wait) 7\n", "5 3 7\n"])
            let isWanted = watch.wantsTimes(totals, at: now)
            watch.look(at: totals, isWanted ? times : nil, at: now)
        }
    }

    @Test("a node that loses nothing says nothing, however busy its machine is")
    func nothing() {
        let world = World()
        for _ in 0..<100 { world.pass(waiting: 0.5, stolen: 0.2, pressed: 0.99) }
        #expect(world.watch.status(at: world.now) == nil && world.watch.problem(at: world.now) == nil)
        // What is no want of room is no loss of this kind.
        for _ in 0..<10 {
            world.block.add(.dropOutboundNoRoute, 1_000)
            world.pass()
        }
        #expect(world.watch.status(at: world.now) == nil)
    }

    @Test("a few are kept with the reason, and are no problem")
    func few() throws {
        let world = World()
        for _ in 0..<20 { world.pass() }
        world.pass(lost: 7, waiting: 0.1)
        let loss = try #require(world.watch.status(at: world.now))
        #expect(loss.packets == 7 && loss.verdict == .starved)
        #expect(
            loss.drops.map { "\($0.reason) \($0.packets)" } == [
                "drop_outbound_no_route 1", "drop_inbound_socket_full 7",
            ])
        #expect(try #require(loss.threadWaitShare) > 0.02)
        for _ in 0..<60 { world.pass() }
        #expect(world.watch.problem(at: world.now) == nil)
        let later = try #require(world.watch.status(at: world.now))
        #expect(later.packets == 7 && later.secondsAgo == 60)
    }

    @Test(
        "starved, by a wait or by steal; dropped, where the threads had their processor",
        arguments: [
            (0.2, 0.0, "starved"), (0.0, 0.1, "starved"), (0.001, 0.0, "dropped"),
        ])
    func verdict(waiting: Double, stolen: Double, verdict: String) throws {
        let world = World()
        for _ in 0..<20 { world.pass() }
        for _ in 0..<5 { world.pass(lost: 500, waiting: waiting, stolen: stolen) }
        let problem = try #require(world.watch.problem(at: world.now))
        #expect(problem.effect == .degraded)
        #expect(problem.cause.hasPrefix("packets are lost, \(verdict): 2500 packets"))
        #expect(problem.cause.contains("drop_inbound_socket_full 2500"))
        // It is over when a minute was quiet, and not before.
        for _ in 0..<59 { world.pass() }
        #expect(world.watch.problem(at: world.now) != nil)
        world.pass()
        #expect(world.watch.problem(at: world.now) == nil)
    }

    @Test("one in a hundred thousand is no problem, however long it goes on")
    func share() {
        let world = World()
        for _ in 0..<200 { world.pass(lost: 5, carried: 500_000) }
        #expect(world.watch.problem(at: world.now) == nil)
        #expect(world.watch.episode?.overflowed == 5 * 199)
    }

    @Test("what the kernel does not tell is left out, and pressure decides then")
    func pressureAlone() throws {
        let silent = ProcessorTimes(pressure: nil, statistics: nil, threads: [])
        #expect(
            silent.pressureMicroseconds == nil && silent.steal == nil && silent.threadWaitNanoseconds == nil)
        let block = CounterBlock.allocate()
        defer { block.deallocate() }
        var watch = LossWatch()
        var now = ContinuousClock.now
        for second in 0..<10 {
            now += .seconds(1)
            if second > 5 { block.add(.dropOutboundQueueFull, 1_000) }
            let times = ProcessorTimes(
                pressure: "some avg10=0 total=\(second * 500_000)\n", statistics: "cpu 1 2\n", threads: ["x"])
            watch.look(at: CounterTotals([block]), times, at: now)
        }
        let loss = try #require(watch.status(at: now))
        #expect(loss.verdict == .starved && loss.threadWaitShare == nil && loss.stealShare == nil)
        #expect(loss.evidence.contains("50% CPU pressure"))
    }

    @Test("what this machine tells is read") func here() {
        let times = ProcessorTimes.now()
        #expect(times.steal != nil)
        // No thread of this process is a packet thread.
        #expect(times.threadWaitNanoseconds == nil)
    }

    @Test("another data plane counts from zero") func anew() {
        var watch = LossWatch()
        let block = CounterBlock.allocate()
        defer { block.deallocate() }
        let times = ProcessorTimes(pressure: nil, statistics: nil, threads: [])
        block.add(.dropInboundSocketFull, 100)
        watch.look(at: CounterTotals([block]), times, at: .now)
        watch.beginAnew()
        watch.look(at: CounterTotals([block]), times, at: .now)
        #expect(watch.status(at: .now) == nil)
    }
}
