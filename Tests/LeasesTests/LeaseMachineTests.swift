import LeaseTesting
import Leases
import Testing

private let hour = Duration.seconds(3_600)

@Suite("Lease machine, simulated store and clock")
struct LeaseMachineTests {
    // MARK: The four rules

    @Test("rule 1: a lease that flanneld left under this node's address is taken over")
    func adoptsFlannelsLease() {
        let simulation = Simulation(seed: 1)
        simulation.put("10.66.28.0-24", #"{"PublicIP":"198.18.9.2"}"#, timeToLive: hour)
        let node = simulation.addNode("198.18.9.2")
        simulation.run(for: .seconds(2))
        #expect(node.subnet == "10.66.28.0-24")
        #expect(simulation.entries.count == 1)
        #expect(simulation.entries["10.66.28.0-24"]?.holder == node.identity)
    }

    @Test("rule 2: a lease of this node that the network no longer has is deleted")
    func deletesUnfitLease() {
        let simulation = Simulation(seed: 2)
        simulation.put("10.99.28.0-24", #"{"PublicIP":"198.18.9.2"}"#, timeToLive: hour)
        let node = simulation.addNode("198.18.9.2")
        simulation.run(for: .seconds(5))
        #expect(node.subnet?.hasPrefix("10.66.") == true)
        #expect(simulation.entries["10.99.28.0-24"] == nil)
    }

    @Test("rule 3: the subnet of the last run, where it is free")
    func takesPreviousSubnet() {
        let simulation = Simulation(seed: 3)
        simulation.put("10.66.200.0-24", #"{"PublicIP":"198.18.9.9"}"#)
        let first = simulation.addNode("198.18.9.2", previous: "10.66.222.0-24")
        let second = simulation.addNode("198.18.9.3", previous: "10.66.200.0-24")
        simulation.run(for: .seconds(3))
        #expect(first.subnet == "10.66.222.0-24")
        #expect(second.subnet != nil && second.subnet != "10.66.200.0-24")
    }

    @Test("rule 4: one of the first hundred free from SubnetMin on, reservations and broken entries left out")
    func takesFreeSubnet() {
        for seed in 0..<20 as Range<UInt64> {
            let simulation = Simulation(
                seed: seed, network: #"{"Network":"10.66.0.0/24","SubnetLen":27,"SubnetMin":"10.66.0.64"}"#)
            simulation.put("10.66.0.64-27", #"{"PublicIP":"198.18.9.9"}"#)
            simulation.put("10.66.0.96-28", "nonsense")
            let node = simulation.addNode("198.18.9.2")
            simulation.run(for: .seconds(3))
            #expect(
                ["10.66.0.128-27", "10.66.0.160-27", "10.66.0.192-27", "10.66.0.224-27"].contains(node.subnet)
            )
        }
    }

    @Test("both families: a pair of prefixes, and the old key without IPv6 does not fit")
    func bothFamilies() {
        let simulation = Simulation(
            seed: 4, network: #"{"EnableIPv6":true,"Network":"10.12.0.0/16","IPv6Network":"fd00:12::/48"}"#)
        simulation.put("10.12.13.0-24", #"{"PublicIP":"198.18.9.2"}"#, timeToLive: hour)
        simulation.put("10.12.1.0-24&fd00:12:0:1::-64", #"{"PublicIP":"198.18.9.9"}"#)
        let node = simulation.addNode("198.18.9.2")
        simulation.run(for: .seconds(4))
        #expect(node.table.ownLease?.subnet.ipv6?.length == 64)
        #expect(node.table.ownLease?.subnet.ipv6 != LeaseSubnet(key: "10.12.1.0-24&fd00:12:0:1::-64")?.ipv6)
        #expect(simulation.entries["10.12.13.0-24"] == nil)
        #expect(node.table.peers.map(\.subnet.key) == ["10.12.1.0-24&fd00:12:0:1::-64"])
    }

    @Test("a lease's life counts from when the store was asked: who slept before the answer renews in time")
    func answerHeardAfterASleep() {
        let simulation = Simulation.network(of: 2, seed: 5)
        let node = simulation.nodes[0]
        var ended: [String] = []
        simulation.expiryObserver = { ended.append($0.key) }
        simulation.answerDelay = .seconds(60)
        simulation.remove(node.subnet!)
        simulation.run(for: .seconds(10))
        #expect(simulation.entries[node.subnet!] != nil)
        node.suspend()
        simulation.run(for: hour * 12)
        simulation.answerDelay = .zero
        node.resume()
        simulation.run(for: hour * 20)
        #expect(ended == [])
    }

    // MARK: Races

    @Test("fifty nodes started at once all get their own subnet", arguments: 0..<4 as Range<UInt64>)
    func race(seed: UInt64) {
        let simulation = Simulation(seed: seed)
        for number in 1...50 { simulation.addNode("198.18.9.\(number)") }
        simulation.run(for: .seconds(20))
        #expect(Set(simulation.nodes.compactMap(\.subnet)).count == 50)
        #expect(simulation.entries.count == 50)
        for node in simulation.nodes { #expect(node.table.peers.count == 49) }
    }

    @Test("more nodes than subnets: as many as there are get one, the rest wait and say so once")
    func noneLeft() {
        let simulation = Simulation(seed: 5, network: #"{"Network":"10.66.0.0/24","SubnetLen":26}"#)
        for number in 1...5 { simulation.addNode("198.18.9.\(number)") }
        simulation.run(for: .seconds(300))
        let waiting = simulation.nodes.filter { $0.subnet == nil }
        #expect(waiting.count == 2)  // SubnetMin is the second of four
        for node in waiting {
            #expect(node.count(.noSubnetIsFree) == 1)
            #expect(node.table.problems.contains { $0.hasPrefix("no subnet is free") })
        }
        let released = simulation.nodes.first { $0.subnet != nil }!
        released.isStopped = true
        simulation.remove(released.subnet!)
        simulation.run(for: .seconds(20))
        #expect(waiting.count { $0.subnet != nil } == 1)
    }

    // MARK: Keeping it

    @Test("a lease is renewed before its end for weeks, and costs next to nothing")
    func renews() {
        let simulation = Simulation(seed: 6)
        let node = simulation.addNode("198.18.9.2")
        simulation.run(for: .seconds(5))
        let subnet = node.subnet
        let before = simulation.requests.count
        simulation.run(for: hour * 24 * 14)
        #expect(node.subnet == subnet)
        #expect(simulation.entries.count == 1)
        #expect(node.count(.leaseRenewed) >= 14)
        #expect(node.count(.leaseIsGone) == 0)
        // Two requests each resync, every ten minutes or more.
        #expect(simulation.requests.count - before < 14 * 24 * 6 * 2 + 50)
    }

    @Test(
        "the widest margin of 1,439 minutes renews every minute, as with flannel, and one too wide not all the time"
    )
    func renewsByTheMargin() {
        let simulation = Simulation(seed: 22)
        let widest = simulation.addNode("198.18.9.2", renewalMargin: .seconds(1_439 * 60))
        let tooWide = simulation.addNode("198.18.9.3", renewalMargin: hour * 24)
        simulation.run(for: hour)
        #expect((60...67).contains(widest.count(.leaseRenewed)))
        #expect(tooWide.count(.leaseRenewed) == 0)
    }

    @Test("a reservation is used, and stays one")
    func reservation() {
        let simulation = Simulation(seed: 7)
        simulation.put("10.66.77.0-24", #"{"PublicIP":"198.18.9.2"}"#)
        let node = simulation.addNode("198.18.9.2", previous: "10.66.5.0-24")
        simulation.run(for: hour * 48)
        #expect(node.subnet == "10.66.77.0-24")
        #expect(node.table.ownLease?.isReservation == true)
        #expect(simulation.entries["10.66.77.0-24"]?.lifetime == .permanent)
        #expect(simulation.entries.count == 1)
    }

    @Test("nodes know each other by name; a lease of before gets the name, and of flanneld nobody asks one")
    func hostNames() {
        let simulation = Simulation(seed: 8)
        simulation.put("10.66.77.0-24", #"{"PublicIP":"198.18.9.2"}"#)
        simulation.put("10.66.78.0-24", #"{"PublicIP":"198.18.9.4"}"#)
        let first = simulation.addNode("198.18.9.2", hostName: "first")
        let second = simulation.addNode("198.18.9.3", hostName: "second")
        simulation.run(for: .seconds(5))
        #expect(
            simulation.entries["10.66.77.0-24"]?.value
                == #"{"PublicIP":"198.18.9.2","PublicIPv6":null,"TwillHost":"first"}"#)
        #expect(second.table.peers.compactMap(\.name) == ["first"])
        #expect(Set(first.table.peers.map(\.name)) == ["second", nil])
        // It is written once, and then left alone.
        let version = simulation.entries["10.66.77.0-24"]?.version
        simulation.run(for: .seconds(600))
        #expect(simulation.entries["10.66.77.0-24"]?.version == version)
    }

    @Test("why a node asks for its subnet is said to who asks: -v 1")
    func decisions() {
        let simulation = Simulation(seed: 8)
        let fresh = simulation.addNode("198.18.9.2")
        let returning = simulation.addNode("198.18.9.3", previous: "10.66.77.0-24")
        simulation.put("10.66.78.0-24", #"{"PublicIP":"198.18.9.9"}"#)
        let displaced = simulation.addNode("198.18.9.4", previous: "10.66.78.0-24")
        simulation.run(for: .seconds(5))
        func reasons(_ node: SimulatedNode) -> [String] {
            node.reports.filter { $0.event == .leaseDecision }.compactMap { $0.fields["reason"] }
        }
        #expect(reasons(fresh).first?.hasPrefix("this node had none: one of the first ") == true)
        #expect(reasons(returning) == ["the subnet of the last run, which is free"])
        #expect(reasons(displaced).first?.hasPrefix("10.66.78.0/24 is another node's: one of ") == true)
    }

    @Test("a reservation stays one when this node's port changes")
    func reservationRewritten() {
        let simulation = Simulation(seed: 8)
        simulation.put("10.66.77.0-24", #"{"PublicIP":"198.18.9.2"}"#)
        let node = simulation.addNode("198.18.9.2")
        simulation.run(for: .seconds(3))
        node.announce("198.18.9.2", port: 9000)
        simulation.run(for: .seconds(3))
        #expect(node.subnet == "10.66.77.0-24")
        let entry = simulation.entries["10.66.77.0-24"]
        #expect(entry?.lifetime == .permanent)
        #expect(entry?.value == #"{"PublicIP":"198.18.9.2","PublicIPv6":null,"BackendData":{"Port":9000}}"#)
    }

    @Test("the own key deleted is registered again with the same subnet, within seconds")
    func ownKeyDeleted() {
        let simulation = Simulation(seed: 9)
        let node = simulation.addNode("198.18.9.2")
        simulation.run(for: .seconds(5))
        let subnet = node.subnet!
        for _ in 0..<3 {
            simulation.remove(subnet)
            simulation.run(for: .seconds(3))
            #expect(node.subnet == subnet)
            #expect(simulation.entries[subnet]?.holder == node.identity)
        }
        #expect(node.count(.leaseIsGone) == 3)
    }

    @Test("the own key deleted before the answer to its creation arrives is registered again")
    func ownKeyDeletedEarly() {
        let simulation = Simulation(seed: 22)
        simulation.answerDelay = .seconds(1)
        let node = simulation.addNode("198.18.9.2", previous: "10.66.5.0-24")
        simulation.run(for: .milliseconds(500))
        simulation.remove("10.66.5.0-24")
        simulation.run(for: .seconds(10))
        #expect(node.subnet == "10.66.5.0-24")
        #expect(simulation.entries["10.66.5.0-24"]?.holder == node.identity)
    }

    @Test("a store that comes back empty has every node again within seconds, with the subnet it had")
    func dataLoss() {
        let simulation = Simulation(seed: 10)
        for number in 1...20 { simulation.addNode("198.18.9.\(number)") }
        simulation.run(for: .seconds(20))
        let before = simulation.nodes.map(\.subnet)
        simulation.isStoreDown = true
        simulation.run(for: hour)
        #expect(simulation.nodes.map(\.subnet) == before)
        for node in simulation.nodes { #expect(node.table.peers.count == 19) }
        simulation.wipe()
        simulation.run(for: .seconds(20))
        #expect(simulation.nodes.map(\.subnet) == before)
        #expect(simulation.entries.count == 20)
        for node in simulation.nodes { #expect(node.table.peers.count == 19) }
    }

    @Test("another node in this node's subnet: said, a new lease, the old one's subnet named")
    func subnetTaken() {
        let simulation = Simulation(seed: 11)
        let node = simulation.addNode("198.18.9.2")
        simulation.run(for: .seconds(5))
        let old = node.subnet!
        simulation.put(old, #"{"PublicIP":"198.18.9.77"}"#, holder: 77, timeToLive: hour)
        simulation.run(for: .seconds(5))
        #expect(node.subnet != old && node.subnet != nil)
        #expect(node.table.ownLease?.replaced?.key == old)
        let report = node.reports.first { $0.event == .subnetLost }
        #expect(report?.fields["taken_by"] == "198.18.9.77:8285")
        #expect(node.table.peers.map(\.subnet.key) == [old])
    }

    @Test("another node in this node's subnet, flannel's way: the end")
    func subnetTakenExit() {
        let simulation = Simulation(seed: 12)
        let node = simulation.addNode("198.18.9.2", lossPolicy: .exit)
        simulation.run(for: .seconds(5))
        simulation.put(node.subnet!, #"{"PublicIP":"198.18.9.77"}"#, holder: 77, timeToLive: hour)
        simulation.run(for: .seconds(5))
        #expect(node.endReason?.contains("198.18.9.77") == true)
    }

    @Test("the own lease's value broken by somebody is written again")
    func ownValueBroken() {
        let simulation = Simulation(seed: 13)
        let node = simulation.addNode("198.18.9.2")
        simulation.run(for: .seconds(5))
        let subnet = node.subnet!
        simulation.put(subnet, "nonsense")
        simulation.run(for: .seconds(5))
        #expect(node.subnet == subnet)
        #expect(simulation.entries[subnet]?.value == #"{"PublicIP":"198.18.9.2","PublicIPv6":null}"#)
        #expect(simulation.entries[subnet]?.holder == node.identity)
    }

    @Test("two nodes with one address: the second says so once and leaves the first's lease alone")
    func oneAddressTwice() {
        let simulation = Simulation(seed: 14)
        let first = simulation.addNode("198.18.9.2")
        simulation.run(for: .seconds(5))
        let second = simulation.addNode("198.18.9.2")
        simulation.run(for: hour)
        #expect(first.subnet != nil && second.subnet != nil && first.subnet != second.subnet)
        #expect(second.count(.addressAnnouncedByAnother) == 1)
        #expect(simulation.entries[first.subnet!]?.holder == first.identity)
    }

    @Test("the same node come back takes its lease, also after its address changed")
    func sameNodeBack() {
        let simulation = Simulation(seed: 15)
        let first = simulation.addNode("198.18.9.2", identity: 42)
        simulation.run(for: .seconds(5))
        first.isStopped = true
        let again = simulation.addNode("198.18.9.3", identity: 42)
        simulation.run(for: .seconds(5))
        #expect(again.subnet == first.subnet)
        #expect(simulation.entries.count == 1)
        #expect(simulation.entries[first.subnet!]?.value == #"{"PublicIP":"198.18.9.3","PublicIPv6":null}"#)
    }

    @Test("nodes that share an address have ports of their own")
    func oneAddressTwoPorts() {
        let simulation = Simulation(seed: 16)
        let first = simulation.addNode("198.18.9.2", port: 9001)
        let second = simulation.addNode("198.18.9.2", port: 9002)
        simulation.run(for: .seconds(5))
        #expect(first.table.peers.map(\.endpoint.description) == ["198.18.9.2:9002"])
        #expect(second.table.peers.map(\.endpoint.description) == ["198.18.9.2:9001"])
        #expect(second.count(.addressAnnouncedByAnother) == 0)
    }

    // MARK: Peers

    @Test("bad entries are skipped with a reason, said once, and cost no other peer anything")
    func badEntries() {
        let simulation = Simulation(seed: 17)
        let node = simulation.addNode("198.18.9.2", previous: "10.66.9.0-24")
        simulation.run(for: .seconds(5))
        let bad = [
            "10.66.20.0-24": "nonsense", "10.66.21.0-24": "{}", "10.66.22.0-24": #"{"PublicIP":"0.0.0.0"}"#,
            "10.66.23.0-24": #"{"PublicIP":"198.18.9.23","BackendType":"vxlan"}"#,
            "10.66.24.0-25": #"{"PublicIP":"198.18.9.24"}"#, "10.66.0.0-16": #"{"PublicIP":"198.18.9.25"}"#,
            "10.67.1.0-24": #"{"PublicIP":"198.18.9.26"}"#, "not a subnet": #"{"PublicIP":"198.18.9.27"}"#,
            "10.66.9.128-25": #"{"PublicIP":"198.18.9.28"}"#, "10.66.29.0-24": #"{"PublicIP":"198.18.9.2"}"#,
            "10.66.30.0-24&fd00::-64": #"{"PublicIP":"198.18.9.30"}"#,
        ]
        simulation.put("10.66.30.0-24", #"{"PublicIP":"198.18.9.30"}"#)
        for (key, value) in bad.sorted(by: { $0.key < $1.key }) { simulation.put(key, value) }
        simulation.run(for: hour)
        #expect(node.table.peers.map(\.subnet.key) == ["10.66.30.0-24"])
        #expect(node.table.skipped.map(\.key) == bad.keys.sorted())
        #expect(node.count(.leaseSkipped) == bad.count)
        simulation.put("10.66.20.0-24", #"{"PublicIP":"198.18.9.20"}"#)
        simulation.run(for: .seconds(1))
        #expect(node.table.peers.count == 2)
        #expect(node.count(.leaseNoLongerSkipped) == 1)
    }

    @Test("of two entries that overlap the one in use stays, and the other comes in when that one goes")
    func overlap() {
        let simulation = Simulation(seed: 23)
        let node = simulation.addNode("198.18.9.2")
        simulation.put("10.66.30.0-24&fd00::-64", #"{"PublicIP":"198.18.9.31"}"#)
        simulation.run(for: .seconds(5))
        simulation.put("10.66.30.0-24", #"{"PublicIP":"198.18.9.30"}"#)
        simulation.run(for: .seconds(1))
        #expect(node.table.peers.map(\.endpoint.description) == ["198.18.9.31:8285"])
        #expect(node.table.skipped.map(\.reason) == ["it overlaps 10.66.30.0-24&fd00::-64, which is in use"])
        // Also where everything is judged anew.
        simulation.setConfiguration(#"{"Network":"10.66.0.0/16","Backend":{"Port":9000}}"#)
        simulation.run(for: .seconds(12))
        #expect(node.table.peers.map(\.endpoint.description) == ["198.18.9.31:9000"])
        #expect(node.table.ownLease?.endpoint.description == "198.18.9.2:9000")
        simulation.remove("10.66.30.0-24&fd00::-64")
        simulation.run(for: .seconds(1))
        #expect(node.table.peers.map(\.endpoint.description) == ["198.18.9.30:9000"])
        #expect(node.table.skipped == [])
    }

    @Test("a peer's new address or port on the same subnet is taken over, by the watch and by a snapshot")
    func peerMoves() {
        let simulation = Simulation(seed: 18)
        let node = simulation.addNode("198.18.9.2")
        simulation.put("10.66.30.0-24", #"{"PublicIP":"198.18.9.30"}"#)
        simulation.run(for: .seconds(5))
        simulation.put("10.66.30.0-24", #"{"PublicIP":"198.18.9.31"}"#)
        simulation.run(for: .seconds(1))
        #expect(node.table.peers.map(\.endpoint.description) == ["198.18.9.31:8285"])
        simulation.isStoreDown = true
        simulation.run(for: .seconds(1))
        simulation.put("10.66.30.0-24", #"{"PublicIP":"198.18.9.31","BackendData":{"Port":9}}"#)
        simulation.compact()
        simulation.isStoreDown = false
        simulation.run(for: .seconds(20))
        #expect(node.table.peers.map(\.endpoint.description) == ["198.18.9.31:9"])
    }

    // MARK: Configuration

    @Test(
        "no configuration, then a wrong one, then a right one: each said once, the last one taken over at once"
    )
    func configurationComes() {
        let simulation = Simulation(seed: 19, network: nil)
        let node = simulation.addNode("198.18.9.2")
        simulation.run(for: hour)
        #expect(node.count(.noNetworkConfiguration) == 1)
        simulation.setConfiguration(#"{"Network":"10.66.0.0/29"}"#)
        simulation.run(for: hour)
        #expect(node.count(.networkConfigurationIsWrong) == 1)
        #expect(node.table.problems.contains { $0.contains("/28 or wider") })
        simulation.setConfiguration(#"{"Network":"10.66.0.0/16"}"#)
        simulation.run(for: .seconds(3))
        #expect(node.subnet != nil)
        #expect(node.table.problems == [])
    }

    @Test(
        "a configuration that changes: the port at once, a broken one not at all, another network by a restart"
    )
    func configurationChanges() {
        let simulation = Simulation(seed: 20)
        let node = simulation.addNode("198.18.9.2")
        simulation.put("10.66.30.0-24", #"{"PublicIP":"198.18.9.30"}"#)
        simulation.run(for: .seconds(5))
        simulation.setConfiguration(#"{"Network":"10.66.0.0/16","Backend":{"Port":9000}}"#)
        simulation.run(for: .seconds(2))
        #expect(node.table.configuration?.backend.port == 9000)
        for json in ["nonsense", #"{"Network":"10.77.0.0/16"}"#] {
            simulation.setConfiguration(json)
            simulation.run(for: .seconds(2))
            #expect(node.table.configuration?.networkText == "10.66.0.0/16")
            #expect(node.table.peers.count == 1)
            #expect(node.table.problems.count == 1)
        }
        #expect(node.count(.networkConfigurationDoesNotAdmitSubnet) == 1)
    }

    // MARK: Whatever fails

    @Test("a store that is down is asked rarely, said once, and said again when it answers")
    func storeDown() {
        let simulation = Simulation(seed: 21)
        simulation.isStoreDown = true
        let node = simulation.addNode("198.18.9.2")
        simulation.run(for: hour)
        #expect(node.count(.storeUnreachable) == 1)
        #expect(simulation.requests.count < 3_600 / 2)
        simulation.isStoreDown = false
        simulation.run(for: .seconds(10))
        #expect(node.count(.storeAnswersAgain) == 1)
        #expect(node.subnet != nil)
    }

    @Test("no node asks more than a few times a second, whatever happens", arguments: 0..<12 as Range<UInt64>)
    func chaos(seed: UInt64) {
        let simulation = Simulation(seed: seed)
        for number in 1...8 { simulation.addNode("198.18.9.\(number)") }
        var dice = SplitMix64(seed: seed &+ 1_000)
        for _ in 0..<60 {
            switch Int.random(in: 0..<8, using: &dice) {
            case 0: simulation.isStoreDown = true
            case 1, 2: simulation.isStoreDown = false
            case 3: simulation.wipe()
            case 4: simulation.compact()
            case 5: simulation.losesAnswers.toggle()
            case 6: simulation.remove(simulation.entries.keys.sorted().randomElement(using: &dice) ?? "")
            default:
                simulation.put(
                    "10.66.\(Int.random(in: 1...120, using: &dice)).0-24", "nonsense", timeToLive: hour)
            }
            simulation.run(for: .milliseconds(Int.random(in: 10...20_000, using: &dice)))
        }
        simulation.isStoreDown = false
        simulation.losesAnswers = false
        // Longer than a resync: what a restored store can hide is found by then.
        simulation.run(for: .seconds(1_000))
        let subnets = simulation.nodes.compactMap(\.subnet)
        #expect(Set(subnets).count == 8)
        for node in simulation.nodes {
            #expect(node.table.isStoreConnected)
            #expect(Set(node.table.peers.map(\.subnet.key)) == Set(subnets.filter { $0 != node.subnet }))
            #expect(simulation.entries[node.subnet ?? ""]?.holder == node.identity)
            let times = simulation.requests.filter { $0.node == node.number }.map(\.at)
            // Any ten seconds: four at once, two a second after that.
            for (index, time) in times.enumerated() where index + 25 < times.count {
                #expect(times[index + 25] - time >= .seconds(10))
            }
        }
        #expect(simulation.entries.values.count { $0.holder != nil } == 8)
    }
}
