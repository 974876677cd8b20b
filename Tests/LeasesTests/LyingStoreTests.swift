import LeaseTesting
import Leases
import Testing

/// What a store keeps to itself, or tells twice, one thing at a time.
@Suite("A store that lies, one lie at a time")
struct LyingStoreTests {
    @Test(
        "a write is done, its answer lost, and the watch does not tell: it is found by a snapshot, and not done twice"
    )
    func answerAndEventLost() {
        let simulation = Simulation(seed: 501, network: nil)
        let node = simulation.addNode("198.18.9.1")
        simulation.run(for: .seconds(5))
        simulation.setConfiguration(#"{"Network":"10.66.0.0/16"}"#)
        simulation.faults.losesAnswer = 1
        simulation.faults.losesEvent = 1
        simulation.run(for: .milliseconds(100))
        #expect(simulation.entries.count == 1 && node.subnet == nil)
        simulation.faults = Simulation.Faults()
        simulation.run(for: .seconds(5))
        #expect(simulation.entries.keys.sorted() == [node.subnet])
    }

    /// As a node has it that starts before its network is configured, or whose underlay does not do for it yet.
    @Test("leases that come while a node has no configuration are its peers once it has one")
    func leasesBeforeTheConfiguration() {
        let simulation = Simulation(seed: 513, network: nil)
        let node = simulation.addNode("198.18.9.1")
        simulation.run(for: .seconds(5))
        simulation.put("10.66.7.0-24", #"{"PublicIP":"198.18.9.7","PublicIPv6":null}"#)
        simulation.run(for: .seconds(5))
        simulation.setConfiguration(#"{"Network":"10.66.0.0/16"}"#)
        simulation.run(for: .seconds(5))
        #expect(node.table.peers.map(\.subnet.description) == ["10.66.7.0/24"])
    }

    @Test("a deletion that is told again, from before what is known, removes nobody, and the store is asked")
    func oldChange() {
        let simulation = Simulation.network(of: 3, seed: 502)
        let node = simulation.nodes[0]
        let peers = node.table.peers
        let requests = simulation.requests.count
        node.tell(
            .changes([.deleted(key: simulation.nodes[1].subnet!)], upTo: .simulated(simulation.revision - 1)))
        #expect(node.table.peers == peers)
        simulation.run(for: .seconds(2))
        #expect(node.table.peers == peers)
        #expect(simulation.requests.count > requests)
    }

    @Test("a watch that stands where the store was before makes the node read everything")
    func watchStandsBack() {
        let simulation = Simulation.network(of: 2, seed: 503)
        let requests = simulation.requests.count
        simulation.nodes[0].tell(.alive(.simulated(simulation.revision - 1)))
        simulation.run(for: .seconds(2))
        #expect(simulation.requests[requests...].contains { $0.node == 0 })
    }

    @Test(
        "a watch that went back tells what was as if it were new: nothing of it is believed, not for a moment"
    )
    func goesBackInTime() {
        let simulation = Simulation.network(of: 3, seed: 506)
        let node = simulation.nodes[0]
        let peers = node.table.peers
        let past = simulation.revision - 2
        node.tell(.alive(.simulated(past)))
        node.tell(.changes([.deleted(key: simulation.nodes[1].subnet!)], upTo: .simulated(past + 1)))
        #expect(node.table.peers == peers)
        simulation.run(for: .seconds(5))
        #expect(node.table.peers == peers && node.table.isStoreConnected)
    }

    @Test("what the watch passed over is found by reading the store now and then, and said")
    func passedOver() {
        let simulation = Simulation.network(of: 2, seed: 507)
        let node = simulation.nodes[0]
        simulation.faults.losesEvent = 1
        simulation.put("10.66.200.0-24", #"{"PublicIP":"198.18.9.200"}"#)
        simulation.run(for: .seconds(1))
        simulation.faults.losesEvent = 0
        simulation.put("10.66.201.0-24", #"{"PublicIP":"198.18.9.201"}"#)
        simulation.run(for: .seconds(1_000))
        #expect(node.table.peers.count == 3)
        let report = node.reports.last { $0.event == .watchMissedChanges }
        #expect(report?.fields["keys"] == "10.66.200.0-24" && report?.fields["count"] == "1")
        #expect(node.count(.watchMissedChanges) == 1)
    }

    @Test("an answer that comes when the watch has told more is late, and no store that was put back")
    func lateAnswers() {
        let simulation = Simulation.network(of: 2, seed: 514)
        let node = simulation.nodes[0]
        simulation.faults.delaysAnswer = 1
        for number in 0..<4_000 {
            simulation.put("10.66.\(200 + number % 31).0-24", #"{"PublicIP":"198.18.9.\#(number % 200)"}"#)
            simulation.run(for: .seconds(1))
        }
        simulation.faults.delaysAnswer = 0
        simulation.run(for: .seconds(1_000))
        #expect(node.count(.storeIsOlder) == 0 && node.count(.watchMissedChanges) == 0)
        #expect(node.table.peers.count == 32)
    }

    @Test("a watch that tells everything is never said to have missed something")
    func nothingPassedOver() {
        let simulation = Simulation.network(of: 4, seed: 508)
        for number in 0..<4_000 {
            let key = "10.66.\(200 + number % 31).0-24"
            if number % 3 == 2 {
                simulation.remove(key)
            } else {
                simulation.put(key, "{\"PublicIP\":\"198.18.8.\(1 + number % 200)\"}")
            }
            simulation.run(for: .milliseconds(1_700))
        }
        #expect(simulation.nodes.allSatisfy { $0.count(.watchMissedChanges) == 0 })
        // All of them were read anew, and so compared, many times.
        #expect(simulation.requests.count > 4 * 14)
    }

    @Test("a watch that tells nothing any more is replaced after the next snapshot")
    func dumbWatch() {
        let simulation = Simulation.network(of: 1, seed: 504)
        let node = simulation.nodes[0]
        node.loseWatch()
        simulation.run(for: .seconds(1_000))
        simulation.put("10.66.200.0-24", #"{"PublicIP":"198.18.9.200"}"#)
        simulation.run(for: .seconds(1))
        #expect(node.table.peers.map(\.subnet.key) == ["10.66.200.0-24"])
    }

    @Test("a subnet that another node took unheard is tried once, and then another one")
    func takenUnheard() {
        let simulation = Simulation(seed: 505, network: nil)
        let node = simulation.addNode("198.18.9.1", previous: "10.66.5.0-24")
        simulation.run(for: .seconds(5))
        simulation.faults.losesEvent = 1
        simulation.put("10.66.5.0-24", #"{"PublicIP":"198.18.9.9"}"#)
        simulation.faults.losesEvent = 0
        simulation.setConfiguration(#"{"Network":"10.66.0.0/16"}"#)
        simulation.run(for: .seconds(5))
        #expect(node.subnet != nil && node.subnet != "10.66.5.0-24")
        // The store is read anew in between, and says whose it is.
        #expect(node.count(.leaseDecision) == 2 && node.count(.anotherNodeWasFaster) == 0)
    }
}
