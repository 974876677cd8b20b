import Testing

@testable import Reconciler

@Suite struct RepeatedRestoresTests {
    @Test func onlyAFightIsAProblem() {
        var restores = RepeatedRestores()
        let start = ContinuousClock.now
        for count in 0..<4 {
            restores.note("route", "another: proto 186 (bgp)", now: start + .seconds(count))
        }
        #expect(restores.problem(of: "route", now: start + .seconds(4)) == nil)
        restores.note("route", "missing", now: start + .seconds(5))
        let problem = restores.problem(of: "route", now: start + .seconds(5))
        #expect(problem?.effect == .degraded && problem?.cause.contains("proto 186 (bgp)") == true)
        #expect(restores.problem(of: "address", now: start) == nil)
        #expect(restores.problem(of: "route", now: start + .seconds(61)) == nil)
    }
}
