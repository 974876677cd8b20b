package import Disturbances
package import Seeded
internal import Leases

/// Plays on a simulation what a soak plays on real daemons and a real etcd: of each disturbance that which lease
/// machines and their store can see.
package final class DisturbancePlayer {
    /// What a disturbance that lasts does with the time until it is over.
    package enum Timing: Sendable {
        /// The time passes, as in a soak.
        case inTurn
        /// Other disturbances come meanwhile.
        case overlapping
    }

    /// How long a store takes to start.
    private static let startTime = Duration.seconds(1)

    private let simulation: Simulation
    private let timing: Timing
    private var identities: UInt32 = 1_000
    /// What ought to be.
    package var network: DisturbedNetwork
    /// Lets time pass until all is well, for disturbances that must begin so.
    package var settle: () -> Void = {}

    /// Makes a player of a simulation whose nodes are those of `network`, in its order.
    package init(_ simulation: Simulation, network: DisturbedNetwork, timing: Timing) {
        self.simulation = simulation
        self.network = network
        self.timing = timing
    }

    /// Node `number`, counted from 1.
    package func node(_ number: Int) -> SimulatedNode { simulation.nodes[number - 1] }

    /// Plays a disturbance.
    ///
    /// - Parameter dice: for what depends on the network's state.
    package func play(_ disturbance: Disturbance, _ dice: inout SeededRandom) {
        simulation.tell(nil, "\(disturbance)")
        switch disturbance {
        case .foreignLeasesWritten, .foreignLeasesRemoved, .foreignLeasesMoved, .foreignLeasesExpire,
            .malformedLease:
            playOnForeignLeases(disturbance, &dice)
        case .ownKeyDeleted, .ownLeaseExpires, .subnetTakenByAnother, .nodeLeavesAndJoins, .nodeReplaced,
            .configurationChanges:
            playOnLeases(disturbance, &dice)
        case .storeKilled, .storeRestarted, .storePaused, .storeEmptied, .storeRestored, .historyCompacted,
            .outage:
            playOnStore(disturbance, &dice)
        case .underlayFlaps(let number, let pause), .cablePulled(let number, let pause):
            let node = node(number)
            node.isCut = true
            lasts(pause) { node.isCut = false }
        case .tunnelFlaps, .tunnelDeleted, .kernelStateDeleted: break  // No lease machine sees that.
        case .addressChanges(let number, _):
            network.changeAddress(of: number)
            node(number).announce(network[number].address)
        case .daemonKilled(let number, let pause):
            let node = node(number)
            node.isStopped = true
            lasts(pause) { if node.isStopped { node.restart() } }
        case .daemonRestarted(let number), .daemonTakenOver(let number), .daemonCrashes(let number),
            .successorKilled(let number, _):
            node(number).restart()
        case .daemonSettingsChange: break  // No lease machine sees that.
        case .daemonPaused(let number, let pause):
            let node = node(number)
            node.suspend()
            lasts(pause) { node.resume() }
        case .daemonsKilledTogether: for node in simulation.nodes.dropFirst() { node.restart() }
        }
    }

    private func lasts(_ pause: Duration, _ end: @escaping () -> Void) {
        switch timing {
        case .overlapping: simulation.schedule(after: pause, end)
        case .inTurn:
            simulation.run(for: pause)
            end()
        }
    }

    // MARK: Leases

    /// Lets time pass until so many entries may be deleted.
    private func waitToDelete(_ count: Int, lasting: Duration = .zero) {
        simulation.run(for: network.reserveDeletions(count, lasting: lasting, now: simulation.now))
    }

    private func write(_ keys: [String]) {
        for key in keys {
            if let address = network.foreign[key] { simulation.put(key, DisturbedNetwork.value(address)) }
        }
    }

    private func playOnForeignLeases(_ disturbance: Disturbance, _ dice: inout SeededRandom) {
        switch disturbance {
        case .foreignLeasesWritten(let count): write(network.addForeign(count, &dice))
        case .foreignLeasesRemoved:
            settle()
            let keys = network.removeForeign(&dice)
            waitToDelete(keys.count)
            for key in keys { simulation.remove(key) }
        case .foreignLeasesMoved: write(network.moveForeign(&dice))
        case .foreignLeasesExpire(let count):
            settle()
            let passing = min(count, network.passingLeases)
            waitToDelete(passing, lasting: .seconds(3))
            let keys = network.addForeign(passing, &dice)
            for key in keys {
                let value = DisturbedNetwork.value(network.foreign[key] ?? "")
                simulation.put(key, value, timeToLive: .seconds(2))
            }
            network.forgetForeign(keys)
            // A store that starts gives every lease its whole time, which is a node's here.
            simulation.run(for: .seconds(3))
        default:
            if network.hasMalformedEntry {
                simulation.remove(DisturbedNetwork.malformedKey)
            } else {
                simulation.put(DisturbedNetwork.malformedKey, DisturbedNetwork.malformedValue)
            }
            network.hasMalformedEntry.toggle()
        }
    }

    private func playOnLeases(_ disturbance: Disturbance, _ dice: inout SeededRandom) {
        switch disturbance {
        case .ownKeyDeleted(let number):
            settle()
            waitToDelete(1)
            simulation.remove(network[number].subnet)
        case .ownLeaseExpires(let number, let pause):
            settle()
            waitToDelete(1)
            let node = node(number)
            node.suspend()
            simulation.remove(network[number].subnet)
            lasts(pause) { node.resume() }
        case .subnetTakenByAnother(let number):
            settle()
            let key = network[number].subnet
            network.setForeign(key, &dice)
            write([key])
            followSubnet(of: number, insteadOf: key)
        case .nodeLeavesAndJoins(let number):
            leave(number)
            settle()
            network[number].isPresent = true
            node(number).restart()
        case .nodeReplaced(let number):
            leave(number)
            network[number].isPresent = true
            identities += 1
            node(number).restart(identity: NodeIdentity(number: identities), keepsSubnet: false)
            followSubnet(of: number, insteadOf: nil)
        case .configurationChanges(let port):
            network.port = port
            simulation.setConfiguration(network.configuration)
        default: break
        }
    }

    /// A node's daemon stops, and an operator takes its lease out.
    private func leave(_ number: Int) {
        settle()
        waitToDelete(1)
        node(number).isStopped = true
        network[number].isPresent = false
        simulation.remove(network[number].subnet)
    }

    /// Lets time pass until a node has another subnet, a minute at most, and takes that for the one that it ought to
    /// have.
    private func followSubnet(of number: Int, insteadOf key: String?) {
        for _ in 0..<600 {
            simulation.run(for: .milliseconds(100))
            guard let subnet = node(number).subnet, subnet != key else { continue }
            network[number].subnet = subnet
            return
        }
    }

    // MARK: The store

    private func playOnStore(_ disturbance: Disturbance, _ dice: inout SeededRandom) {
        switch disturbance {
        case .storeKilled(let pause), .storePaused(let pause):
            simulation.isStoreDown = true
            lasts(pause) { [simulation] in simulation.isStoreDown = false }
        case .storeRestarted: restartStore()
        case .storeEmptied(let pause, let configurationAfter):
            simulation.isStoreDown = true
            lasts(pause) { [self] in
                comeBackEmpty()
                simulation.run(for: configurationAfter)
                fill()
            }
        case .storeRestored(let count, let after):
            settle()
            let backup = simulation.backup
            let keys = network.addForeign(count, &dice)
            write(keys)
            simulation.run(for: after)
            simulation.restore(backup)
            network.noteLoss(now: simulation.now)
            write(keys)
        case .historyCompacted(let number, let count):
            let node = node(number)
            node.suspend()
            write(network.addForeign(count, &dice))
            simulation.compact()
            restartStore()
            node.resume()
        case .outage(let losesData, let meanwhile):
            simulation.isStoreDown = true
            for other in meanwhile { play(other, &dice) }
            if losesData { comeBackEmpty() } else { simulation.isStoreDown = false }
            fill()
        default: break
        }
    }

    private func restartStore() {
        simulation.isStoreDown = true
        simulation.run(for: Self.startTime)
        simulation.isStoreDown = false
    }

    private func comeBackEmpty() {
        network.hasMalformedEntry = false
        simulation.configuration = nil
        simulation.wipe()
        network.noteLoss(now: simulation.now)
    }

    /// Writes the network's configuration, and foreign leases as their nodes do when they find them gone.
    private func fill() {
        simulation.setConfiguration(network.configuration)
        write(network.foreign.keys.sorted().filter { simulation.entries[$0] == nil })
    }
}
