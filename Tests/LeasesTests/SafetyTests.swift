import Addresses
import LeaseTesting
import Leases
import Testing

@testable import Leases

private let hour = Duration.seconds(3_600)

/// Watches a simulation step by step: what works is not removed, and nobody sends its own pods' packets elsewhere.
private final class SafetyObserver {
    private let simulation: Simulation
    private var peers: [Int: Set<LeaseSubnet>] = [:]
    private var owners: [Int: (subnet: LeaseSubnet, since: ContinuousClock.Instant)] = [:]
    /// When a lease was deleted by itself, which is believed.
    var deleted: [String: ContinuousClock.Instant] = [:]
    private(set) var violations: [String] = []
    /// Peers that went while their nodes had their subnets: wrong where these have them a minute later, too. A node may
    /// have lost its subnet to another one without having heard of it.
    private var suspicions:
        [(at: ContinuousClock.Instant, node: Int, owner: Int, subnet: LeaseSubnet, text: String)] =
            []
    private(set) var steps = 0

    init(_ simulation: Simulation) { self.simulation = simulation }

    func look(at node: SimulatedNode) {
        steps += 1
        let now = simulation.now
        let table = node.table
        for suspicion in suspicions where suspicion.at + .seconds(60) <= now {
            if let owner = owners[suspicion.owner], owner.subnet == suspicion.subnet,
                owner.since < suspicion.at
            {
                violations.append(suspicion.text)
            }
        }
        suspicions.removeAll { $0.at + .seconds(60) <= now }
        if let own = table.ownLease?.subnet {
            if owners[node.number]?.subnet != own { owners[node.number] = (own, now) }
            if table.peers.contains(where: { $0.subnet.overlaps(own) }) {
                violations.append(
                    "\(now - simulation.start): node \(node.number) has its own subnet \(own) among its peers"
                )
            }
        } else {
            owners[node.number] = nil
        }
        let current = Set(table.peers.map(\.subnet))
        for subnet in (peers[node.number] ?? []).subtracting(current) {
            // Its node has it, and had it for a while, and nobody deleted it by itself.
            guard let owner = owners.first(where: { $0.value.subnet == subnet && $0.key != node.number }),
                owner.value.since + .seconds(30) < now, !simulation.nodes[owner.key].isStopped,
                (deleted[subnet.key] ?? simulation.start) + .seconds(60) < now
            else { continue }
            let text = "\(now - simulation.start): node \(node.number) lost its peer \(owner.key), \(subnet)"
            suspicions.append((now, node.number, owner.key, subnet, text))
        }
        // The first of many deletions that come one by one are believed until the others follow.
        suspicions.removeAll {
            $0.node == node.number && $0.at + .seconds(1) > now && current.contains($0.subnet)
        }
        peers[node.number] = current
    }
}

@Suite("Whatever a store does, step by step")
struct SafetyTests {
    /// Runs eight nodes for about `rounds` times 20 s under faults and disasters, then in peace.
    private func run(seed: UInt64, rounds: Int) -> (Simulation, SafetyObserver) {
        let simulation = Simulation(seed: seed)
        let observer = SafetyObserver(simulation)
        simulation.observer = { observer.look(at: $0) }
        for number in 1...8 { simulation.addNode("198.18.9.\(number)") }
        simulation.run(for: .seconds(60))
        simulation.faults.failsRequest = 0.05
        simulation.faults.losesAnswer = 0.05
        // No watch that keeps an event to itself: nobody can know of that before a snapshot is read.
        simulation.faults.repeatsEvent = 0.1
        simulation.faults.goesBack = 0.02
        simulation.faults.endsWatch = 0.05
        var dice = SplitMix64(seed: seed &+ 1_000)
        var backup = simulation.backup
        for round in 0..<rounds {
            switch Int.random(in: 0..<16, using: &dice) {
            case 0: simulation.isStoreDown = true
            case 1, 2: simulation.isStoreDown = false
            case 3: simulation.wipe()
            case 4: simulation.compact()
            case 5: backup = simulation.backup
            case 6:
                for (key, entry) in backup.entries where entry.value == "nonsense" {
                    observer.deleted[key] = simulation.now
                }
                simulation.restore(backup)
            case 7:
                simulation.removeAll(simulation.entries.keys.sorted())
            case 8: simulation.storeIdentity = "\(round)"
            case 9:
                let key = simulation.entries.keys.sorted().randomElement(using: &dice) ?? ""
                observer.deleted[key] = simulation.now + (simulation.isStoreDown ? hour * 12 : .zero)
                simulation.remove(key)
            case 10:
                let key = "10.66.\(Int.random(in: 1...120, using: &dice)).0-24"
                observer.deleted[key] = simulation.now + (simulation.isStoreDown ? hour * 12 : .zero)
                simulation.put(key, "nonsense", timeToLive: hour)
            // The machine slept: nothing is heard for hours, then everything at once.
            case 11: simulation.run(for: hour * 3)
            default: break
            }
            simulation.run(for: .milliseconds(Int.random(in: 10...40_000, using: &dice)))
        }
        simulation.faults = Simulation.Faults()
        simulation.isStoreDown = false
        simulation.run(for: .seconds(2_000))
        return (simulation, observer)
    }

    @Test(
        "no peer that works is removed, no subnet has two owners, and all is well in the end",
        arguments: 0..<6 as Range<UInt64>)
    func safety(seed: UInt64) {
        let (simulation, observer) = run(seed: seed, rounds: 40)
        #expect(observer.violations == [])
        #expect(observer.steps > 300)
        let subnets = simulation.nodes.compactMap(\.subnet)
        #expect(Set(subnets).count == 8)
        for node in simulation.nodes {
            #expect(node.table.isStoreConnected)
            #expect(
                Set(subnets.filter { $0 != node.subnet }).isSubset(of: node.table.peers.map(\.subnet.key)))
            #expect(simulation.entries[node.subnet ?? ""]?.holder == node.identity)
        }
    }

    @Test("a seed does the same again") func reproducible() {
        let (first, second) = (run(seed: 77, rounds: 15), run(seed: 77, rounds: 15))
        func story(_ simulation: Simulation) -> [String] {
            simulation.nodes.flatMap { node in
                node.reports.map { report in
                    "\(node.number) \(report.event) "
                        + report.fields.filter { $0.key != "revision" }.sorted { $0.key < $1.key }.map {
                            "\($0)=\($1)"
                        }
                        .joined(separator: " ")
                }
            }
        }
        #expect(story(first.0) == story(second.0))
        #expect(first.0.requests.map(\.node) == second.0.requests.map(\.node))
        #expect(
            first.0.requests.map { $0.at - first.0.start } == second.0.requests.map { $0.at - second.0.start }
        )
    }
}
