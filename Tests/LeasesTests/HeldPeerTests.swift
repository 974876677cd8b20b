import LeaseTesting
import Leases
import Testing

private let hour = Duration.seconds(3_600)

@Suite("Peers that the store lost, and how they are let go") struct HeldPeerTests {
    @Test("what is held is let go by nobody whom the store does not answer: it may have come back unheard")
    func heldInSilence() {
        let simulation = Simulation.network(of: 5, seed: 125)
        let node = simulation.nodes[0]
        let others = simulation.nodes.dropFirst().map { $0 }
        for other in others { other.isStopped = true }
        simulation.removeAll(others.compactMap(\.subnet))
        simulation.run(for: .seconds(1))
        node.isCut = true
        simulation.put(others[0].subnet!, #"{"PublicIP":"198.18.9.2"}"#, holder: 2, timeToLive: hour * 48)
        simulation.run(for: hour * 25)
        #expect(node.table.peers.count == 4)
        node.isCut = false
        simulation.run(for: .seconds(30))
        #expect(node.table.peers.count == 4)
        simulation.run(for: .seconds(1_800))
        #expect(node.table.peers.map(\.subnet.key) == [others[0].subnet!])
        #expect(node.table.problems == [])
    }

    @Test("a peer that is waited for and registers again, of which the watch does not tell, is not let go")
    func returnUntold() {
        let simulation = Simulation.network(of: 6, seed: 126)
        let (node, late) = (simulation.nodes[0], simulation.nodes[1])
        let peers = node.table.peers
        simulation.isStoreDown = true
        simulation.run(for: .seconds(5))
        let value = simulation.entries[late.subnet!]!.value
        late.isStopped = true
        simulation.removeAll([late.subnet!])
        simulation.compact()
        simulation.isStoreDown = false
        simulation.run(for: .seconds(25))
        simulation.faults.losesEvent = 1
        simulation.put(late.subnet!, value, holder: late.identity.number, timeToLive: hour * 24)
        simulation.faults.losesEvent = 0
        var secondsWithout = 0
        for _ in 0..<120 {
            simulation.run(for: .seconds(1))
            if node.table.peers != peers { secondsWithout += 1 }
        }
        #expect(secondsWithout == 0)
    }

    @Test("a watch that goes on in another store tells what that one lacks: that is part of its loss")
    func toldByTheWatchOfAnotherStore() {
        let simulation = Simulation.network(of: 6, seed: 127)
        let (node, late) = (simulation.nodes[0], simulation.nodes[1])
        let peers = node.table.peers
        simulation.isStoreDown = true
        simulation.run(for: .seconds(5))
        simulation.isStoreDown = false
        simulation.run(for: .seconds(15))
        late.isStopped = true
        simulation.storeIdentity = "another"
        simulation.faults.losesEvent = 1
        simulation.remove(node.subnet!)
        simulation.faults.losesEvent = 0
        simulation.remove(late.subnet!)
        simulation.run(for: .milliseconds(100))
        #expect(node.table.peers.count == peers.count - 1)
        // It is behind what the watch told, so that the store is read.
        node.tell(.alive(.simulated(1)))
        simulation.run(for: .seconds(5))
        #expect(node.table.peers == peers)
    }
}
