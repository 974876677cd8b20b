import Foundation
import Testing

@testable import twill_bench

@Suite struct AlternateTests {
    private static let settings = Alternation.Settings(
        first: "a", second: "b", twilldFlags: "", measurement: "udp-64", seconds: 0.25, groups: 12)

    /// Starts of daemons whose figures differ by `share`, and from start to start by 1 % more.
    private func alternation(share: Double, starts: Int, seed: UInt64) -> Alternation {
        var noise = SeededNoise(seed: seed)
        var alternation = Alternation(settings: Self.settings)
        for _ in 0..<starts { alternation.add(["m": log(1 + share) + 0.01 * noise.normal()]) }
        return alternation
    }

    @Test func theIntervalHoldsWhatIsSoNineteenTimesInTwenty() {
        for share in [0, 0.01, -0.02] {
            let held = (0..<400).count { seed in
                let ratio = alternation(share: share, starts: 12, seed: UInt64(seed) + 1).ratio("m")!
                return ratio.low <= 1 + share && 1 + share <= ratio.high
            }
            #expect((370...390).contains(held), "\(share): \(held) of 400")
        }
    }

    @Test func thirtyStartsTellOnePercent() {
        let ratio = alternation(share: 0.01, starts: 30, seed: 7).ratio("m")!
        #expect(ratio.low > 1 && ratio.high < 1.02)
    }

    /// One start says nothing of how starts differ, and a figure of 0 is no share of anything.
    @Test func whatHasNoIntervalIsNotSaid() {
        #expect(alternation(share: 0, starts: 1, seed: 1).ratio("m") == nil)
        var alternation = alternation(share: 0, starts: 2, seed: 1)
        #expect(alternation.ratio("other") == nil)
        for _ in 0..<2 { alternation.add(["zero": -.infinity, "none": .nan]) }
        #expect(alternation.ratio("zero") == nil && alternation.ratio("none") == nil)
    }

    @Test func startsOfSeveralRunsCountTogether() throws {
        let path = NSTemporaryDirectory() + "alternation-\(getpid())/starts.json"
        defer { try? FileManager.default.removeItem(atPath: (path as NSString).deletingLastPathComponent) }
        try alternation(share: 0, starts: 3, seed: 1).write(to: path)
        var again = try Alternation(path: path, settings: Self.settings)
        again.add(["m": 0])
        #expect(again.starts.count == 4)
        var others = Self.settings
        others.second = "c"
        #expect(throws: CommandError.self) { try Alternation(path: path, settings: others) }
    }
}
