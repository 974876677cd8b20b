// Each fault of the table by itself: cause → state → words → recovery.

import Kit
import NetworkNamespaces
import Testing

@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct TruthTableTests {
    @Test func eachFaultIsToldAndItsEndToo() async throws {
        let world = try await World()
        try await world.victim.healed()
        for fault in Fault.table {
            do {
                try await fault.begin(world)
                try await world.expectTruth(of: [fault])
                // Ready is what is not cut off.
                if case .problem(_, let effect, _) = fault.telling {
                    #expect(world.victim.status?.isReady == (effect == .degraded), "\(fault.name)")
                }
            } catch {
                Issue.record("\(fault.name): \(error)")
            }
            do {
                try await fault.end(world)
                try await world.victim.healed()
                _ = try await until("pods that reach each other") {
                    await world.pods[0].answers(from: world.pods[1].address, count: 2) == 2 ? true : nil
                }
            } catch {
                Issue.record("after the end of \(fault.name): \(error)")
            }
        }
    }
}
