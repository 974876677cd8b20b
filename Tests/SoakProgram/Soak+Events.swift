import Disturbances
import Glibc
import Kit
import NetworkNamespaces
import Seeded

// Each disturbance as it is done to real daemons and a real etcd. What ought to be afterwards is written into
// `network`.

extension Soak {
    /// Does what a card says.
    ///
    /// - Parameter dice: for what depends on the network's state.
    /// - Returns: what came of that, for the line that tells of the event; nil where the card says it all.
    @discardableResult
    func play(_ disturbance: Disturbance, _ dice: inout SeededRandom) async throws -> String? {
        switch disturbance {
        case .foreignLeasesWritten, .foreignLeasesRemoved, .foreignLeasesMoved, .foreignLeasesExpire,
            .malformedLease:
            return try await playOnForeignLeases(disturbance, &dice)
        case .ownKeyDeleted, .ownLeaseExpires, .subnetTakenByAnother, .nodeLeavesAndJoins, .nodeReplaced,
            .configurationChanges:
            return try await playOnLeases(disturbance, &dice)
        case .storeKilled, .storeRestarted, .storePaused, .storeEmptied, .storeRestored, .historyCompacted,
            .outage:
            return try await playOnStore(disturbance, &dice)
        case .underlayFlaps, .cablePulled, .tunnelFlaps, .tunnelDeleted, .kernelStateDeleted, .addressChanges:
            return try await playOnLinks(disturbance)
        case .daemonKilled, .daemonRestarted, .daemonCrashes, .daemonTakenOver, .successorKilled,
            .daemonSettingsChange, .daemonPaused, .daemonsKilledTogether:
            try await playOnDaemons(disturbance)
            return nil
        }
    }

    private func key(_ subnet: String) -> String { "\(LabEtcd.prefix)/subnets/\(subnet)" }

    /// Waits until so many entries may be deleted.
    private func waitToDelete(_ count: Int, lasting: Duration = .zero) async throws {
        try await Task.sleep(for: network.reserveDeletions(count, lasting: lasting, now: .now))
    }

    // MARK: Foreign leases

    /// Writes foreign leases, all of them at once.
    private func write(_ keys: [String]) async throws {
        let operations = keys.compactMap { key in
            network.foreign[key].map { "put \(self.key(key)) \(DisturbedNetwork.value($0))" }
        }
        if !operations.isEmpty { try await etcd.transact(operations) }
    }

    private func playOnForeignLeases(
        _ disturbance: Disturbance, _ dice: inout SeededRandom
    ) async throws -> String? {
        switch disturbance {
        case .foreignLeasesWritten(let count):
            let keys = network.addForeign(count, &dice)
            try await write(keys)
            return "\(keys.count)"
        case .foreignLeasesRemoved:
            try await settle()
            let keys = network.removeForeign(&dice)
            try await waitToDelete(keys.count)
            for key in keys { try await etcd.deleteLease(key) }
            return "\(keys.count)"
        case .foreignLeasesMoved:
            let keys = network.moveForeign(&dice)
            try await write(keys)
            return "\(keys.count)"
        case .foreignLeasesExpire(let count):
            try await settle()
            let passing = min(count, network.passingLeases)
            try await waitToDelete(passing, lasting: .seconds(5))
            let keys = network.addForeign(passing, &dice)
            let lease = try await etcd.grant(seconds: 2)
            shortLeasesEnd = .now + Self.shortLeasesTime
            for key in keys {
                let value = DisturbedNetwork.value(network.foreign[key] ?? "")
                do {
                    try await etcd.control("put --lease \(lease) \(self.key(key)) '\(value)'")
                } catch let failure as CommandFailure where failure.description.contains("lease not found") {
                    // On a busy machine the two seconds are over before the last of them is written.
                    break
                }
            }
            network.forgetForeign(keys)
            return "\(keys.count)"
        default:
            let isThere = network.hasMalformedEntry
            if isThere {
                try await etcd.deleteLease(DisturbedNetwork.malformedKey)
            } else {
                try await etcd.putLease(DisturbedNetwork.malformedKey, DisturbedNetwork.malformedValue)
            }
            network.hasMalformedEntry = !isThere
            return isThere ? "removed" : "written"
        }
    }

    // MARK: Nodes' leases

    private func playOnLeases(
        _ disturbance: Disturbance, _ dice: inout SeededRandom
    ) async throws -> String? {
        switch disturbance {
        case .ownKeyDeleted(let number):
            try await settle()
            try await waitToDelete(1)
            try await etcd.deleteLease(network[number].subnet)
        case .ownLeaseExpires(let number, let pause):
            try await settle()
            try await waitToDelete(1)
            let lease = try await etcd.lease(network[number].subnet)?.lease
            node(number).signal(SIGSTOP)
            if let lease, lease != 0 { try await etcd.revoke(lease) }
            try await Task.sleep(for: pause)
            node(number).signal(SIGCONT)
        case .subnetTakenByAnother(let number):
            try await settle()
            let key = network[number].subnet
            network.setForeign(key, &dice)
            try await write([key])
            try await followSubnet(of: number, insteadOf: key)
        case .nodeLeavesAndJoins(let number):
            try await leave(number)
            try await settle()
            network[number].isPresent = true
            try await node(number).start(etcd)
        case .nodeReplaced(let number):
            try await leave(number)
            try node(number).wipeDisk()
            network[number].isPresent = true
            try await node(number).start(etcd)
            try await followSubnet(of: number, insteadOf: nil)
        case .configurationChanges(let port):
            network.port = port
            try await etcd.setNetwork(network.configuration)
        default: break
        }
        return nil
    }

    /// Waits until a node has another subnet, takes that for the one that it ought to have, and makes its pod anew
    /// there.
    private func followSubnet(of number: Int, insteadOf key: String?) async throws {
        let node = node(number)
        let subnet = try await until(
            "another subnet for node \(number)", seconds: Self.healTime / .seconds(1),
            { String(node.daemon.log.suffix(2_000)) }
        ) { node.subnetInFile.flatMap { $0 == key ? nil : $0 } }
        network[number].subnet = subnet
        try await node.remakePod(in: subnet, next: next(after: number))
    }

    /// A node's daemon stops for good, and an operator takes its lease out.
    private func leave(_ number: Int) async throws {
        try await settle()
        try await waitToDelete(1)
        let lease = try await etcd.lease(network[number].subnet)?.lease
        try await node(number).end(SIGTERM)
        network[number].isPresent = false
        try await etcd.deleteLease(network[number].subnet)
        if let lease, lease != 0 { try await etcd.revoke(lease) }
    }

    // MARK: The store

    private func playOnStore(
        _ disturbance: Disturbance, _ dice: inout SeededRandom
    ) async throws -> String? {
        switch disturbance {
        case .storeKilled(let pause):
            try await etcd.stop()
            try await Task.sleep(for: pause)
            try await startStore()
        case .storeRestarted:
            try await etcd.stop(SIGTERM)
            try await startStore()
        case .storePaused(let pause):
            etcd.pause()
            defer { etcd.resume() }
            try await Task.sleep(for: pause)
        case .storeEmptied(let pause, let configurationAfter):
            try await loseData()
            try await Task.sleep(for: pause)
            try await startStore()
            try await Task.sleep(for: configurationAfter)
            try await fill()
        case .storeRestored(let count, let after):
            try await settle()
            try await etcd.save()
            let keys = network.addForeign(count, &dice)
            try await write(keys)
            try await Task.sleep(for: after)
            try await etcd.stop()
            try await etcd.restore()
            try await startStore()
            network.noteLoss(now: .now)
            // As their nodes do when they find them gone.
            try await write(keys)
        case .historyCompacted(let number, let count):
            node(number).signal(SIGSTOP)
            try await write(network.addForeign(count, &dice))
            try await etcd.compact()
            try await etcd.stop(SIGTERM)
            try await startStore()
            node(number).signal(SIGCONT)
        case .outage(let losesData, let meanwhile):
            if losesData { try await loseData() } else { try await etcd.stop() }
            for other in meanwhile { try await play(other, &dice) }
            try await startStore()
            if losesData {
                try await fill()
            } else {
                try await etcd.setNetwork(network.configuration)
            }
        default: break
        }
        return nil
    }

    /// A store that starts gives every lease that it still has its whole time.
    private func startStore() async throws {
        try await etcd.start()
        if shortLeasesEnd != nil { shortLeasesEnd = .now + Self.shortLeasesTime }
    }

    private func loseData() async throws {
        // A lease that ends while the store is gone has not been seen to end.
        if let shortLeasesEnd { try await Task.sleep(until: shortLeasesEnd) }
        network.hasMalformedEntry = false
        try await etcd.stop()
        try etcd.wipe()
    }

    /// Writes the network's configuration, and foreign leases as their nodes do when they find them gone. Until then
    /// nodes hold the peers and say that the store is in doubt.
    private func fill() async throws {
        network.noteLoss(now: .now)
        try await etcd.setNetwork(network.configuration)
        try await write(network.foreign.keys.sorted())
    }

    // MARK: Links and the kernel

    private func playOnLinks(_ disturbance: Disturbance) async throws -> String? {
        switch disturbance {
        case .underlayFlaps(let number, let pause):
            try await lab[number].run("ip link set eth0 down")
            try await Task.sleep(for: pause)
            try await lab[number].run("ip link set eth0 up")
        case .cablePulled(let number, let pause):
            try await lab.setCable(of: number, isIn: false)
            try await Task.sleep(for: pause)
            try await lab.setCable(of: number, isIn: true)
        case .tunnelFlaps(let number, let count):
            for _ in 0..<count {
                try await onTunnel(of: number, "ip link set flannel0 down")
                try await Task.sleep(for: .milliseconds(100))
                try await onTunnel(of: number, "ip link set flannel0 up")
            }
        case .tunnelDeleted(let number):
            try await onTunnel(of: number, "ip link delete flannel0")
        case .kernelStateDeleted(let number):
            try await onTunnel(of: number, "ip route delete \(DisturbedNetwork.network)")
            try await onTunnel(of: number, "ip address flush dev flannel0")
            _ = await lab[number].succeeds("iptables -w -t nat -F FLANNEL-POSTRTG")
        case .addressChanges(let number, let newIsAddedFirst):
            let old = network[number].address
            network.changeAddress(of: number)
            let new = network[number].address
            let add = "ip address add \(new)/24 dev eth0"
            let delete = "ip address delete \(old)/24 dev eth0"
            try await lab[number].run(newIsAddedFirst ? "\(add) && \(delete)" : "\(delete) && \(add)")
            return "from \(old) to \(new)"
        default: break
        }
        return nil
    }

    /// Runs a command where there is a flannel0: a daemon that was started while the store is away has none.
    private func onTunnel(of number: Int, _ command: String) async throws {
        do {
            _ = try await until("flannel0", seconds: 3) { try await lab[number].interface("flannel0") }
        } catch is WaitedInVain { return }
        // A daemon may take the device away in this very moment.
        _ = await lab[number].succeeds(command)
    }

    // MARK: Daemons

    private func playOnDaemons(_ disturbance: Disturbance) async throws {
        switch disturbance {
        case .daemonKilled(let number, let pause):
            try await node(number).end(SIGKILL)
            try await Task.sleep(for: pause)
            try await node(number).start(etcd)
        case .daemonRestarted(let number):
            try await node(number).end(SIGTERM)
            try await node(number).start(etcd)
        case .daemonCrashes(let number): try await node(number).crash()
        case .daemonTakenOver(let number): try await node(number).takeOver(etcd)
        case .successorKilled(let number, let after):
            try await node(number).takeOver(etcd, killedAfter: after)
        case .daemonSettingsChange(let number, let workers): try await node(number).set(workers: workers)
        case .daemonPaused(let number, let pause):
            node(number).signal(SIGSTOP)
            try await Task.sleep(for: pause)
            node(number).signal(SIGCONT)
        case .daemonsKilledTogether:
            for node in nodes.dropFirst() { try await node.end(SIGKILL) }
            for node in nodes.dropFirst() { try await node.start(etcd) }
        default: break
        }
    }
}
