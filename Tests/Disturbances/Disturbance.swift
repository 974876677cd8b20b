/// What befalls a network of nodes on a store of leases: one card of a deck. It says what is done and to whom, and
/// not how: a soak does it to real daemons on a real etcd, a lease simulation to lease machines on a simulated store.
///
/// Nodes are counted from 1.
public enum Disturbance: Sendable, Hashable {
    // Leases.
    /// Other nodes' leases are written.
    case foreignLeasesWritten(count: Int)
    /// Some of the other nodes' leases are deleted.
    case foreignLeasesRemoved
    /// Some of the other nodes get other addresses.
    case foreignLeasesMoved
    /// Leases of other nodes come, and end after two seconds.
    case foreignLeasesExpire(count: Int)
    /// An entry that is no lease is written; where there is one, it is deleted.
    case malformedLease
    /// A node's key is deleted.
    case ownKeyDeleted(node: Int)
    /// A node's daemon stands still, and its lease ends meanwhile.
    case ownLeaseExpires(node: Int, pause: Duration)
    /// Somebody else writes itself under a node's key.
    case subnetTakenByAnother(node: Int)
    /// A node's daemon ends and its lease is taken out; later the node comes back.
    case nodeLeavesAndJoins(node: Int)
    /// A node is replaced by one of the same address, with nothing on its disk.
    case nodeReplaced(node: Int)
    /// The network's configuration names another port.
    case configurationChanges(port: Int)

    // The store.
    /// The store is killed, and is back after a while.
    case storeKilled(pause: Duration)
    /// The store is ended and started.
    case storeRestarted
    /// The store stands still for a while: it takes requests and does not answer.
    case storePaused(pause: Duration)
    /// The store is killed and comes back empty; the network's configuration is there some time after.
    case storeEmptied(pause: Duration, configurationAfter: Duration)
    /// The store is put back to what it was before other nodes' leases were written.
    case storeRestored(count: Int, after: Duration)
    /// A node's daemon stands still while leases are written; the store forgets its history and is restarted.
    case historyCompacted(node: Int, count: Int)

    // Links and the kernel.
    /// A node's interface is down for a while.
    case underlayFlaps(node: Int, pause: Duration)
    /// A node's cable is out for a while: its interface has no carrier.
    case cablePulled(node: Int, pause: Duration)
    /// A node's tunnel device is set down and up.
    case tunnelFlaps(node: Int, count: Int)
    /// A node's tunnel device is deleted.
    case tunnelDeleted(node: Int)
    /// A node's overlay route, tunnel address and firewall rules are deleted.
    case kernelStateDeleted(node: Int)
    /// A node's underlay address changes.
    case addressChanges(node: Int, newIsAddedFirst: Bool)

    // Daemons.
    /// A node's daemon is killed, and is back after a while.
    case daemonKilled(node: Int, pause: Duration)
    /// A node's daemon is ended and started.
    case daemonRestarted(node: Int)
    /// The last node's daemon is killed; its service manager, which has kept its descriptors, starts it again at once.
    case daemonCrashes(node: Int)
    /// A process of another build takes over from a node's daemon, while that runs.
    case daemonTakenOver(node: Int)
    /// A process that is to take over from a node's daemon is killed so long after its start.
    case successorKilled(node: Int, after: Duration)
    /// A node's daemon is told other settings, by which its data plane is made anew.
    case daemonSettingsChange(node: Int, workers: Int)
    /// A node's daemon stands still for a while.
    case daemonPaused(node: Int, pause: Duration)
    /// All daemons but the first node's are killed and started at once.
    case daemonsKilledTogether

    // Together.
    /// The store is away, perhaps for ever with its data, and meanwhile other things happen.
    indirect case outage(losesData: Bool, meanwhile: [Disturbance])

    /// The kinds of cards, in the order of a summary; the raw value is what it calls them.
    public enum Kind: String, CaseIterable, Sendable {
        case foreignLeasesWritten = "foreign leases written"
        case foreignLeasesRemoved = "foreign leases removed"
        case foreignLeasesMoved = "foreign leases moved"
        case foreignLeasesExpire = "foreign leases expire"
        case malformedLease = "malformed lease"
        case ownKeyDeleted = "own key deleted"
        case ownLeaseExpires = "own lease expires"
        case subnetTakenByAnother = "subnet taken by another"
        case nodeLeavesAndJoins = "node leaves and joins"
        case nodeReplaced = "node replaced"
        case configurationChanges = "configuration changes"
        case storeKilled = "store killed"
        case storeRestarted = "store restarted"
        case storePaused = "store paused"
        case storeEmptied = "store emptied"
        case storeRestored = "store restored"
        case historyCompacted = "history compacted"
        case underlayFlaps = "underlay flaps"
        case cablePulled = "cable pulled"
        case tunnelFlaps = "tunnel flaps"
        case tunnelDeleted = "tunnel deleted"
        case kernelStateDeleted = "kernel state deleted"
        case addressChanges = "address changes"
        case daemonKilled = "daemon killed"
        case daemonRestarted = "daemon restarted"
        case daemonCrashes = "daemon crashes"
        case daemonTakenOver = "daemon taken over"
        case successorKilled = "successor killed"
        case daemonSettingsChange = "daemon's settings change"
        case daemonPaused = "daemon paused"
        case daemonsKilledTogether = "daemons killed together"
        case outage = "outage"
    }
}

extension Disturbance: CustomStringConvertible {
    /// What happens, in words.
    public var description: String {
        switch self {
        case .foreignLeasesWritten(let count): "\(count) foreign leases written"
        case .foreignLeasesRemoved: "foreign leases removed"
        case .foreignLeasesMoved: "foreign leases moved to other addresses"
        case .foreignLeasesExpire(let count): "\(count) foreign leases with 2 s to live"
        case .malformedLease: "a malformed lease written or removed"
        case .ownKeyDeleted(let node): "node \(node)'s key deleted"
        case .ownLeaseExpires(let node, let pause):
            "node \(node)'s daemon stopped for \(pause), its lease ends meanwhile"
        case .subnetTakenByAnother(let node): "node \(node)'s subnet taken by a foreign node"
        case .nodeLeavesAndJoins(let node): "node \(node) leaves, and joins again"
        case .nodeReplaced(let node): "node \(node) replaced: same address, nothing on its disk"
        case .configurationChanges(let port): "the network's port changes to \(port)"
        case .storeKilled(let pause): "store killed, back after \(pause)"
        case .storeRestarted: "store restarted"
        case .storePaused(let pause): "store paused for \(pause)"
        case .storeEmptied(let pause, let after):
            "store back after \(pause) with nothing in it, configured \(after) later"
        case .storeRestored(let count, let after):
            "store restored from before \(count) foreign leases were written, \(after) later"
        case .historyCompacted(let node, let count):
            "node \(node)'s daemon stopped while \(count) leases are written, store compacted and restarted"
        case .underlayFlaps(let node, let pause): "node \(node)'s eth0 down for \(pause)"
        case .cablePulled(let node, let pause): "node \(node)'s cable out for \(pause)"
        case .tunnelFlaps(let node, let count): "node \(node)'s flannel0 down and up, \(count) times"
        case .tunnelDeleted(let node): "node \(node)'s flannel0 deleted"
        case .kernelStateDeleted(let node): "node \(node)'s overlay route, tunnel address and rules deleted"
        case .addressChanges(let node, let newIsAddedFirst):
            "node \(node)'s address changes, the \(newIsAddedFirst ? "new one added" : "old one deleted") first"
        case .daemonKilled(let node, let pause): "node \(node)'s daemon killed, back after \(pause)"
        case .daemonRestarted(let node): "node \(node)'s daemon restarted"
        case .daemonCrashes(let node): "node \(node)'s daemon killed, started again with what was kept"
        case .daemonTakenOver(let node): "a daemon of another build takes over on node \(node)"
        case .successorKilled(let node, let after):
            "a daemon that is to take over on node \(node) killed \(after) after its start"
        case .daemonSettingsChange(let node, let workers):
            "node \(node)'s daemon is told to have \(workers) workers"
        case .daemonPaused(let node, let pause): "node \(node)'s daemon stopped for \(pause)"
        case .daemonsKilledTogether: "the daemons of all nodes but the first killed and started together"
        case .outage(let losesData, let meanwhile):
            "store away; " + meanwhile.map(\.description).joined(separator: "; ")
                + (losesData ? "; it comes back empty" : "")
        }
    }
}
