import Testing

@testable import NodeDaemon

@Suite struct TooLargeWatchTests {
    @Test func onlyWhatGoesOnIsTold() throws {
        var watch = TooLargeWatch()
        var now = ContinuousClock.now
        var count: UInt64 = 0
        func problem() -> String? { watch.problem(interface: "eth0", at: now)?.cause }
        // Some, until the path is learnt.
        for _ in 0..<10 {
            count += 5
            now += .seconds(1)
            let grew = watch.grew(to: count, at: now)
            #expect(grew)
            #expect(problem() == nil)
        }
        for _ in 0..<40 {
            now += .seconds(1)
            let grew = watch.grew(to: count, at: now)
            #expect(!grew)
        }
        #expect(problem() == nil)
        for _ in 0..<31 {
            count += 1
            now += .seconds(1)
            _ = watch.grew(to: count, at: now)
        }
        #expect(try #require(problem()).hasSuffix("are lost: 31 in 30 s"))
        // Another data plane counts anew.
        count = 0
        for _ in 0..<40 {
            now += .seconds(1)
            let grew = watch.grew(to: count, at: now)
            #expect(!grew)
        }
        #expect(problem() == nil)
    }
}
