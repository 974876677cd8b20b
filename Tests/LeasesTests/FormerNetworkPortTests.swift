import LeaseTesting
import Leases
import Testing

@Suite("The network's port of before") struct FormerNetworkPortTests {
    @Test(
        "the network's port changes: others are sent to where they received before for ten seconds, those that came since are not",
        arguments: [false, true])
    func networksPortChanges(isHeardOfLate: Bool) {
        let simulation = Simulation(seed: 22)
        let node = simulation.addNode("198.18.9.2")
        let entries = [
            ("10.66.30.0-24", #"{"PublicIP":"198.18.9.30"}"#),
            ("10.66.31.0-24", #"{"PublicIP":"198.18.9.31","BackendData":{"Port":7000}}"#),
            ("10.66.32.0-24", #"{"PublicIP":"198.18.9.32"}"#),
        ]
        for (key, value) in entries { simulation.put(key, value) }
        simulation.run(for: .seconds(5))
        simulation.isStoreDown = isHeardOfLate
        simulation.setConfiguration(#"{"Network":"10.66.0.0/16","Backend":{"Port":9000}}"#)
        // This one was started anew, and has never received on the former port.
        simulation.put("10.66.32.0-24", entries[2].1)
        simulation.put("10.66.33.0-24", #"{"PublicIP":"198.18.9.33"}"#)
        if isHeardOfLate {
            // By a snapshot alone: the watch's history is gone by then.
            simulation.run(for: .seconds(20))
            simulation.compact()
        }
        simulation.isStoreDown = false
        for _ in 0..<120 where node.table.configuration?.backend.port != 9000 {
            simulation.run(for: .milliseconds(500))
        }
        simulation.run(for: .seconds(1))
        #expect(node.table.ownLease?.endpoint.port == 9000)
        #expect(node.table.peers.map(\.endpoint.port) == [8285, 7000, 9000, 9000])
        simulation.run(for: .seconds(8))
        #expect(node.table.peers.map(\.endpoint.port) == [8285, 7000, 9000, 9000])
        simulation.run(for: .seconds(2))
        #expect(node.table.peers.map(\.endpoint.port) == [9000, 7000, 9000, 9000])
    }
}
