import Kit
import NetworkNamespaces
import Testing

@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct HealthyNodeTests {
    @Test func podsReachEachOtherAndNothingIsWrong() async throws {
        let lab = try await Lab()
        let daemons = try await lab.start()
        var pods: [LabPod] = []
        for (node, daemon) in zip(lab.nodes, daemons) {
            let subnet = try #require(daemon.status?.lease?.subnet)
            pods.append(try await node.addPod(in: subnet))
        }
        #expect(await pods[0].answers(from: pods[1].address, count: 5) == 5)
        #expect(await pods[1].answers(from: pods[0].address, count: 5, bytes: 1472) == 5)
        for daemon in daemons {
            let status = try await daemon.healed()
            #expect(status.components.allSatisfy { $0.condition == "good" })
        }
    }
}
