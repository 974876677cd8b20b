import KubernetesNodes
import Testing

@Suite("A simulated cluster")
struct ClusterSimulationTests {
    @Test(
        "when all is quiet, every node's table is what the API server has, whatever happened",
        arguments: 1...10)
    func quietTruth(seed: Int) {
        let faults = ClusterScenario(seed: UInt64(seed)).run(hours: 2)
        #expect(faults.isEmpty, "seed \(seed): \(faults.joined(separator: "\n"))")
    }
}
