import Health
import LeaseTesting
import Leases
import Testing

@testable import Leases

private let hour = Duration.seconds(3_600)

/// A store that was emptied, unmounted, restored or replaced says the same as one whose nodes are gone.
@Suite("K6: what a store says is doubted")
struct StoreDoubtTests {
    private func lostLeases(_ node: SimulatedNode) -> Problem? {
        node.table.conditions[Component(.store, "lost leases")]
    }

    @Test(
        "etcdctl del --prefix, config and leases in one change: every peer stays, said, and confirmed one by one"
    )
    func deletedAtOnce() {
        let simulation = Simulation.network(of: 5, seed: 101)
        let node = simulation.nodes[0]
        for other in simulation.nodes.dropFirst() { other.isStopped = true }
        simulation.removeAll(simulation.entries.keys.sorted(), andConfiguration: true)
        simulation.run(for: .seconds(30))
        #expect(node.table.peers.count == 4)
        #expect(lostLeases(node)?.cause.contains("4 nodes") == true)
        #expect(node.table.conditions[Component(.configuration)] != nil)
        // It registers itself again, and each node that does so is confirmed.
        #expect(simulation.entries[node.subnet ?? ""]?.holder == node.identity)
        simulation.setConfiguration(#"{"Network":"10.66.0.0/16"}"#)
        for other in simulation.nodes.dropFirst() {
            other.isStopped = false
            other.feed(.timer)
        }
        simulation.run(for: .seconds(1_000))
        #expect(node.table.peers.count == 4)
        #expect(node.table.problems == [])
    }

    @Test("a script that deletes key by key: what went first comes back")
    func deletedOneByOne() {
        let simulation = Simulation.network(of: 8, seed: 102)
        let node = simulation.nodes[0]
        for other in simulation.nodes.dropFirst() { other.isStopped = true }
        for key in simulation.entries.keys.sorted() where key != node.subnet {
            simulation.remove(key)
            simulation.run(for: .milliseconds(30))
        }
        simulation.run(for: .seconds(1))
        #expect(node.table.peers.count == 7)
        #expect(lostLeases(node) != nil)
    }

    @Test("one lease deleted is believed at once, be it one of two, or one of many")
    func oneDeletionIsBelieved() {
        for count in [2, 3, 9] {
            let simulation = Simulation.network(of: count, seed: 103)
            let node = simulation.nodes[0]
            simulation.nodes[1].isStopped = true
            simulation.remove(simulation.nodes[1].subnet!)
            simulation.run(for: .milliseconds(100))
            #expect(node.table.peers.count == count - 2)
            #expect(node.table.problems == [])
        }
    }

    @Test("a snapshot that lacks most peers after an outage is not believed; one that lacks a few is")
    func snapshotLacksPeers() {
        for (removed, left) in [(6, 7), (2, 5)] {
            let simulation = Simulation.network(of: 8, seed: 104)
            let node = simulation.nodes[0]
            for other in simulation.nodes.dropFirst() { other.isStopped = true }
            simulation.isStoreDown = true
            simulation.run(for: .seconds(5))
            simulation.removeAll(simulation.nodes.dropFirst().prefix(removed).compactMap(\.subnet))
            simulation.compact()
            simulation.isStoreDown = false
            simulation.run(for: .seconds(120))
            #expect(node.table.peers.count == left)
        }
    }

    @Test("a store that lost all and is half filled again: this node's own lease, gone too, counts")
    func halfFilledAgain() {
        let simulation = Simulation.network(of: 5, seed: 120)
        let node = simulation.nodes[0]
        let others = simulation.nodes.dropFirst().map { $0 }
        for other in others { other.isStopped = true }
        simulation.isStoreDown = true
        simulation.run(for: .seconds(5))
        let lost = simulation.entries
        simulation.removeAll(lost.keys.sorted())
        for other in others.prefix(2) {
            guard let subnet = other.subnet, let entry = lost[subnet] else { continue }
            simulation.put(subnet, entry.value, holder: other.identity.number, timeToLive: hour * 24)
        }
        simulation.compact()
        simulation.isStoreDown = false
        simulation.run(for: .seconds(300))
        #expect(node.table.peers.count == 4)
        #expect(lostLeases(node)?.cause.contains("2 nodes") == true)
    }

    @Test("a node that slept hears at once that all went and that most came back: the rest is waited for")
    func wakesAfterTheLoss() {
        let simulation = Simulation.network(of: 5, seed: 122)
        let node = simulation.nodes[0]
        let peers = node.table.peers
        let keys = peers.map(\.subnet.key)
        node.suspend()
        node.tell(.changes(keys.map { .deleted(key: $0) }, upTo: .simulated(simulation.revision + 1)))
        // That the last one came back, the watch keeps to itself.
        for (number, key) in keys.dropLast().enumerated() {
            guard let entry = simulation.entries[key] else { continue }
            let position = StorePosition.simulated(simulation.revision + 2 + Int64(number))
            node.tell(.changes([.put(entry)], upTo: position))
        }
        node.resume()
        #expect(node.table.peers == peers)
    }

    @Test("what the watch told of a loss and what a snapshot shows of it a moment later are one loss")
    func watchAndSnapshot() {
        let simulation = Simulation.network(of: 6, seed: 123)
        let node = simulation.nodes[0]
        let peers = node.table.peers
        for other in simulation.nodes.dropFirst() { other.isStopped = true }
        for (number, peer) in peers.prefix(4).enumerated() {
            if number == 2 { simulation.faults.losesEvent = 1 }
            simulation.remove(peer.subnet.key)
            simulation.run(for: .milliseconds(100))
        }
        simulation.faults.losesEvent = 0
        #expect(node.table.peers.count == 3)
        // It is behind what the watch told, so that the store is read.
        node.tell(.alive(.simulated(1)))
        simulation.run(for: .seconds(1))
        #expect(node.table.peers == peers)
        #expect(lostLeases(node)?.cause.contains("4 nodes") == true)
    }

    @Test("that a held peer's entry is deleted, told once more, is no news")
    func deletionToldAgain() {
        let simulation = Simulation.network(of: 5, seed: 124)
        let node = simulation.nodes[0]
        let peers = node.table.peers
        for other in simulation.nodes.dropFirst() { other.isStopped = true }
        simulation.removeAll(peers.map(\.subnet.key))
        simulation.run(for: .seconds(1))
        #expect(node.table.peers == peers && lostLeases(node) != nil)
        for peer in peers {
            node.tell(.changes([.deleted(key: peer.subnet.key)], upTo: .simulated(simulation.revision)))
        }
        #expect(node.table.peers == peers)
    }

    @Test("a peer that a snapshot lacks is waited for while its node asks a store that does not answer yet")
    func lateReturn() {
        let simulation = Simulation.network(of: 6, seed: 121)
        let (node, late) = (simulation.nodes[0], simulation.nodes[1])
        let peers = node.table.peers
        simulation.isStoreDown = true
        simulation.run(for: .seconds(5))
        if let subnet = late.subnet { simulation.removeAll([subnet]) }
        simulation.compact()
        late.isCut = true
        simulation.isStoreDown = false
        var secondsWithout = 0
        for second in 0..<90 {
            if second == 25 { late.isCut = false }
            simulation.run(for: .seconds(1))
            if node.table.peers != peers { secondsWithout += 1 }
        }
        #expect(secondsWithout == 0)
        #expect(simulation.entries[late.subnet ?? ""]?.holder == late.identity)
    }

    @Test("a store restored from a backup: what came after the backup stays, the rest is as the backup says")
    func restored() {
        let simulation = Simulation.network(of: 4, seed: 105)
        let backup = simulation.backup
        let late = simulation.addNode("198.18.9.5")
        simulation.run(for: .seconds(10))
        late.isStopped = true
        simulation.restore(backup)
        simulation.run(for: .seconds(20))
        for node in simulation.nodes.prefix(4) {
            #expect(node.table.peers.count == 4)
            #expect(lostLeases(node)?.cause.contains("restored, emptied or replaced") == true)
        }
        late.isStopped = false
        late.feed(.timer)
        simulation.run(for: .seconds(1_000))
        for node in simulation.nodes.prefix(4) {
            #expect(node.table.problems == [] && node.table.peers.count == 4)
        }
    }

    @Test("another cluster under the same name: said, and no peer is lost, not even one alone")
    func anotherStore() {
        let simulation = Simulation.network(of: 3, seed: 106)
        let node = simulation.nodes[0]
        for other in simulation.nodes.dropFirst() { other.isStopped = true }
        simulation.isStoreDown = true
        simulation.run(for: .seconds(1))
        simulation.storeIdentity = "two"
        simulation.removeAll([simulation.nodes[1].subnet!])
        simulation.compact()
        simulation.isStoreDown = false
        simulation.run(for: .seconds(20))
        #expect(node.table.peers.count == 2)
        #expect(node.count(.storeIsAnother) == 1)
    }

    @Test(
        "what is held ends when its lease would have, and when another node has its subnet or it has another")
    func heldEnds() {
        let simulation = Simulation.network(of: 5, seed: 107)
        let node = simulation.nodes[0]
        let others = simulation.nodes.dropFirst().map { $0 }
        for other in others { other.isStopped = true }
        simulation.removeAll(others.compactMap(\.subnet))
        simulation.run(for: .seconds(1))
        #expect(node.table.peers.count == 4)
        // Another node in the place of one, and one of them with another subnet.
        simulation.put(others[0].subnet!, #"{"PublicIP":"198.18.9.77"}"#, holder: 77, timeToLive: hour * 48)
        simulation.put("10.66.250.0-24", #"{"PublicIP":"198.18.9.3"}"#, holder: 3, timeToLive: hour * 48)
        simulation.run(for: .seconds(1))
        #expect(node.table.peers.count == 4)
        #expect(node.table.peers.filter { $0.endpoint.address.description == "198.18.9.3" }.count == 1)
        #expect(lostLeases(node)?.cause.contains("2 nodes") == true)
        simulation.run(for: hour * 25)
        #expect(node.table.peers.count == 2)
        #expect(node.table.problems == [])
    }

    @Test("a watch that tells of before what is known is not believed; the store is asked")
    func watchGoesBack() {
        let simulation = Simulation.network(of: 3, seed: 108)
        let node = simulation.nodes[0]
        let peers = node.table.peers
        let key = simulation.nodes[1].subnet!
        simulation.faults.repeatsEvent = 1
        let value = simulation.entries[key]!.value
        simulation.remove(key)
        simulation.run(for: .milliseconds(100))
        simulation.put(key, value, holder: simulation.nodes[1].identity.number, timeToLive: hour * 24)
        simulation.faults.repeatsEvent = 0
        simulation.run(for: .milliseconds(900))
        #expect(node.table.peers == peers)
        // Here the deletion is told again.
        simulation.run(for: .seconds(20))
        #expect(node.table.peers == peers)
    }

    // MARK: Logs

    @Test("a store that answers and ends the watch at once, for six hours: few requests, few lines")
    func flappingStore() {
        let simulation = Simulation.network(of: 2, seed: 109)
        let node = simulation.nodes[0]
        let (lines, requests) = (node.reports.count, simulation.requests.count)
        for _ in 0..<21_600 {
            simulation.isStoreDown = true
            simulation.isStoreDown = false
            simulation.run(for: .seconds(1))
        }
        #expect(node.reports.count - lines < 1_500)
        // Two nodes; each a watch every five seconds, and a snapshot now and then.
        #expect(simulation.requests.count - requests < 2 * (21_600 / 2))
        #expect(node.table.peers.count == 1)
    }

    @Test("a key that is broken and mended for a day, and twenty thousand broken ones: few lines")
    func flappingEntries() {
        let simulation = Simulation.network(of: 1, seed: 110)
        let node = simulation.nodes[0]
        for number in 0..<5_000 {
            simulation.put("10.66.250.0-24", number % 2 == 0 ? "nonsense" : #"{"PublicIP":"198.18.9.250"}"#)
            simulation.run(for: .seconds(1))
        }
        #expect(node.count(.leaseSkipped) < 200)
        #expect(node.reports.contains { $0.fields["left_out"] != nil })
    }

    @Test("many skipped entries and many changes: each change costs itself alone")
    func manySkipped() {
        let simulation = Simulation.network(of: 1, seed: 111)
        let node = simulation.nodes[0]
        for number in 0..<3_000 { simulation.put("broken \(number)", "nonsense") }
        // Entries that a peer keeps out.
        simulation.put("10.66.200.0-24", #"{"PublicIP":"198.18.9.200"}"#)
        simulation.run(for: .seconds(5))
        simulation.put("10.66.200.0-24&fd00::-64", #"{"PublicIP":"198.18.9.201"}"#)
        for number in 0..<1_000 {
            simulation.put("10.66.\(number % 100 + 1).0-24", #"{"PublicIP":"198.18.8.\#(number % 250 + 1)"}"#)
            if number % 2 == 0 { simulation.remove("10.66.\(number % 100 + 1).0-24") }
        }
        simulation.run(for: .seconds(5))
        #expect(node.table.skipped.count == 3_001)
        #expect(node.table.skipped.map(\.key) == node.table.skipped.map(\.key).sorted())
        simulation.remove("10.66.200.0-24")
        simulation.run(for: .seconds(5))
        #expect(node.table.skipped.count == 3_000)
        #expect(node.table.peers.contains { $0.endpoint.address.description == "198.18.9.201" })
    }

    @Test("what a store says is wrong with it, though it answers, is a problem of the node")
    func storeConditions() {
        let simulation = Simulation.network(of: 1, seed: 112)
        let node = simulation.nodes[0]
        let problem = Problem(.degraded, "the clocks are an hour apart", remedy: "set them")
        node.tell(.conditions([Component(.clock): problem]))
        #expect(node.table.conditions == [Component(.clock): problem])
        node.tell(.conditions([:]))
        #expect(node.table.problems == [])
    }

    // MARK: Reservations

    @Test(
        "a lease that is made a reservation while its node runs stays one, through renewals and a change of port"
    )
    func reservedWhileItRuns() {
        let simulation = Simulation.network(of: 1, seed: 113)
        let node = simulation.nodes[0]
        let subnet = node.subnet!
        simulation.put(subnet, simulation.entries[subnet]!.value)
        simulation.run(for: .seconds(1))
        #expect(node.table.ownLease?.isReservation == true)
        simulation.run(for: hour * 30)
        #expect(simulation.entries[subnet]?.lifetime == .permanent)
        node.announce("198.18.9.1", port: 9000)
        simulation.run(for: .seconds(5))
        #expect(simulation.entries[subnet]?.lifetime == .permanent)
        #expect(node.subnet == subnet)
    }

    // MARK: Addresses

    @Test("a network that covers this node's underlay is refused, and the one before it stays")
    func networkCoversUnderlay() {
        let simulation = Simulation(seed: 114, network: #"{"Network":"198.18.0.0/16"}"#)
        let node = simulation.addNode("198.18.9.1")
        simulation.run(for: .seconds(5))
        #expect(node.subnet == nil)
        #expect(node.table.problems.contains { $0.contains("198.18.9.1") && $0.contains("198.18.0.0/16") })
        simulation.setConfiguration(#"{"Network":"10.66.0.0/16"}"#)
        simulation.run(for: .seconds(5))
        #expect(node.subnet != nil && node.table.problems == [])
        simulation.setConfiguration(#"{"Network":"198.0.0.0/8"}"#)
        simulation.run(for: .seconds(5))
        #expect(node.table.configuration?.networkText == "10.66.0.0/16")
        #expect(node.table.problems.count == 1)
        // Behind NAT it is the address of the interface that counts.
        let hidden = Simulation(seed: 115)
        let behind = hidden.addNode("198.18.9.1", underlayAddress: "10.66.3.4")
        hidden.run(for: .seconds(5))
        #expect(behind.subnet == nil && behind.table.problems.contains { $0.contains("10.66.3.4") })
    }

    @Test(
        "a lease whose address lies inside Network, and one of this node's address on its interface, are no peers"
    )
    func addressesThatGoRound() {
        let simulation = Simulation(seed: 116)
        let node = simulation.addNode("198.18.9.1", underlayAddress: "172.20.0.1")
        simulation.run(for: .seconds(5))
        simulation.put("10.66.200.0-24", #"{"PublicIP":"10.66.3.4"}"#)
        simulation.put("10.66.201.0-24", #"{"PublicIP":"172.20.0.1"}"#)
        simulation.put("10.66.202.0-24", #"{"PublicIP":"255.255.255.255"}"#)
        simulation.put("10.66.203.0-24", #"{"PublicIP":"239.1.2.3"}"#)
        simulation.run(for: .seconds(5))
        #expect(node.table.peers == [])
        #expect(node.table.skipped.map(\.key) == (200...203).map { "10.66.\($0).0-24" })
        #expect(node.table.skipped[0].reason.contains("inside Network"))
        #expect(node.table.skipped[1].reason.contains("this node's own address"))
    }

    @Test("the IPv6 half of a key is checked where the network has IPv6, and left aside where it has none")
    func ipv6Halves() {
        let both = Simulation(
            seed: 117, network: #"{"EnableIPv6":true,"Network":"10.66.0.0/16","IPv6Network":"fd00:12::/48"}"#)
        let node = both.addNode("198.18.9.1", previous: nil)
        both.run(for: .seconds(5))
        both.put("10.66.200.0-24&fd00:12:0:f0::-64", #"{"PublicIP":"198.18.9.2"}"#)
        both.put("10.66.201.0-24&fd00:99:0:f0::-64", #"{"PublicIP":"198.18.9.3"}"#)
        both.put("10.66.202.0-24&fd00:12:0:f100::-56", #"{"PublicIP":"198.18.9.4"}"#)
        both.put("10.66.203.0-24&fd00:12::-48", #"{"PublicIP":"198.18.9.5"}"#)
        both.put("10.66.204.0-24&::-0", #"{"PublicIP":"198.18.9.6"}"#)
        both.run(for: .seconds(5))
        #expect(node.table.peers.map(\.endpoint.address.description) == ["198.18.9.2"])
        #expect(node.table.skipped.count == 4)
        let alone = Simulation(seed: 118)
        let other = alone.addNode("198.18.9.1")
        alone.run(for: .seconds(5))
        alone.put("10.66.200.0-24&::-0", #"{"PublicIP":"198.18.9.2"}"#)
        alone.put("10.66.201.0-24&fd00::-64", #"{"PublicIP":"198.18.9.3"}"#)
        alone.run(for: .seconds(5))
        #expect(other.table.peers.map(\.subnet.ipv6) == [nil, nil])
    }

    @Test("free IPv6 prefixes among thousands of taken ones, and none past a prefix that takes the rest")
    func freeIPv6Prefixes() throws {
        let configuration = try NetworkConfiguration(
            parsing: #"{"EnableIPv6":true,"Network":"10.0.0.0/8","IPv6Network":"fd00:12::/48"}"#)
        var register = LeaseRegister(identity: NodeIdentity(number: 1))
        let now = ContinuousClock.now
        func take(_ ipv4: Int, _ ipv6: String) {
            let entry = StoreEntry(
                key: "10.\(ipv4 / 256).\(ipv4 % 256).0-24&\(ipv6)", value: "{}",
                version: StoreVersion(number: 1),
                holder: nil, lifetime: .permanent)
            _ = register.put(entry, now: now)
        }
        for number in 1...8_000 { take(number, "fd00:12:0:\(String(number, radix: 16))::-64") }
        var free = register.freeSubnets(in: configuration, limit: 100, without: [])
        #expect(free.first?.ipv6?.description == "fd00:12:0:1f41::/64")
        #expect(free.count == 100)
        take(9_000, "fd00:12:0:2000::-52")
        free = register.freeSubnets(in: configuration, limit: 400, without: [])
        #expect(free.count == 400)
        #expect(!free.contains { (0x2000..<0x3000).contains(($0.ipv6?.address.high ?? 0) & 0xFFFF) })
        take(9_001, "fd00:12:0:8000::-49")
        free = register.freeSubnets(in: configuration, limit: 65_000, without: [])
        #expect(free.allSatisfy { ($0.ipv6?.address.high ?? 0) & 0xFFFF < 0x8000 })
    }

    @Test("extreme numbers in a snapshot trap nothing")
    func extremeNumbers() {
        let simulation = Simulation.network(of: 1, seed: 119)
        let node = simulation.nodes[0]
        for revision in [Int64.max, 0, -1, .min, 5] {
            node.tell(.alive(.simulated(revision)))
            node.tell(
                .changes(
                    [
                        .put(
                            StoreEntry(
                                key: "10.66.9.0-24", value: "{}", version: StoreVersion(number: .max),
                                holder: nil,
                                lifetime: .expiring(remaining: .seconds(Int64.max)))),
                        .put(
                            StoreEntry(
                                key: "10.66.8.0-24", value: "{}", version: StoreVersion(number: 0),
                                holder: nil,
                                lifetime: .expiring(remaining: .seconds(Int64.min)))),
                    ], upTo: .simulated(revision)))
            simulation.run(for: .seconds(1))
        }
        simulation.run(for: hour)
        #expect(node.table.isStoreConnected)
    }
}
