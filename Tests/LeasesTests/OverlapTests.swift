import LeaseTesting
import Leases
import Testing

@Suite("Entries that overlap")
struct OverlapTests {
    @Test("an entry that overlaps this node's own subnet under another key is no peer")
    func ownSubnet() {
        let simulation = Simulation(seed: 601)
        let node = simulation.addNode("198.18.9.1", previous: "10.66.9.0-24")
        simulation.run(for: .seconds(5))
        simulation.put("10.66.9.0-24&fd00::-64", #"{"PublicIP":"198.18.9.30"}"#)
        simulation.run(for: .seconds(1))
        #expect(node.table.peers == [])
        #expect(node.table.skipped.map(\.reason) == ["it overlaps this node's own subnet, 10.66.9.0/24"])
    }

    @Test("of two that overlap and come at once, every node takes the first by its key")
    func atOnce() {
        let simulation = Simulation(seed: 602)
        let node = simulation.addNode("198.18.9.1", previous: "10.66.9.0-24")
        simulation.run(for: .seconds(5))
        let subnets = (100..<116).map { "10.66.\($0).0-24" }
        let events = subnets.reversed().flatMap { subnet in
            [subnet + "&fd00::-64", subnet].map { key in
                StoreEvent.put(
                    StoreEntry(
                        key: key, value: #"{"PublicIP":"198.18.9.30"}"#, version: StoreVersion(number: 1),
                        holder: nil, lifetime: .permanent))
            }
        }
        node.tell(.changes(events, upTo: .simulated(simulation.revision + 1)))
        #expect(node.table.skipped.map(\.key) == subnets.map { $0 + "&fd00::-64" })
    }
}
