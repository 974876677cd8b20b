internal import Addresses
import Glibc
import Health
import Netlink
internal import Reconciler

/// Each peer has its two entries: which hardware address its device has, and behind which node's address that is.
/// Entries that somebody set for good and no peer has are taken away. They end with the device.
struct VXLANPeers: NeighborItem {
    /// How many entries a sentence names.
    private static let namedEntries = 3

    let interfaceName: String
    /// The entries without the device's number, those of one peer after those of another.
    private let entries: [Neighbor]
    /// Subnets whose peers announce a hardware address that another has: one of the two gets nothing.
    private let clashes: [String]

    init(interfaceName: String, peers: [BackendPeer]) {
        self.interfaceName = interfaceName
        var entries: [Neighbor] = []
        var holders: [HardwareAddress: IPPrefix] = [:]
        var clashes: [String] = []
        for peer in peers {
            guard let address = (peer.announced?.value as? VXLANData)?.hardwareAddress else { continue }
            if let other = holders[address] {
                clashes.append("\(other) and \(peer.subnet) (\(address))")
                continue
            }
            holders[address] = peer.subnet
            entries += [
                Neighbor(
                    .neighbors, interfaceIndex: 0, address: peer.subnet.address, hardwareAddress: address),
                Neighbor(.forwarding, interfaceIndex: 0, address: peer.address, hardwareAddress: address),
            ]
        }
        self.entries = entries
        self.clashes = clashes
    }

    var name: String { "entries of peers of \(interfaceName)" }
    var component: Component { Component(.tunnel, "entries of \(interfaceName)") }
    var isEssential: Bool { false }

    private func difference(in state: NetworkState) throws -> (missing: [Neighbor], surplus: [Neighbor]) {
        let index = try state.device(interfaceName).index
        let present = state.neighbors.filter { $0.interfaceIndex == index && $0.isPermanent }
        let wanted = entries.map { entry in
            var entry = entry
            entry.interfaceIndex = index
            return entry
        }
        let (presentSet, wantedSet) = (Set(present), Set(wanted))
        return (
            wanted.filter { !presentSet.contains($0) }, present.filter { !wantedSet.contains($0) }
        )
    }

    func deviation(in state: NetworkState) throws -> String? {
        let (missing, surplus) = try difference(in: state)
        if missing.isEmpty, surplus.isEmpty, clashes.isEmpty { return nil }
        func words(_ entries: [Neighbor], _ what: String) -> String? {
            guard !entries.isEmpty else { return nil }
            let names = entries.prefix(Self.namedEntries).map(\.description).joined(separator: ", ")
            let rest =
                entries.count > Self.namedEntries ? " and \(entries.count &- Self.namedEntries) more" : ""
            return "\(names)\(rest) \(what)"
        }
        return [words(missing, "missing"), words(surplus, "not wanted")].compactMap(\.self)
            .joined(separator: ", ")
    }

    func update(in state: NetworkState, using socket: RouteSocket) throws {
        let (missing, surplus) = try difference(in: state)
        for entry in missing { try socket.replaceNeighbor(entry) }
        // What was replaced is gone already.
        let replaced = Set(missing.map(Key.init))
        for entry in surplus where !replaced.contains(Key(entry)) {
            do throws(NetlinkError) {
                try socket.deleteNeighbor(entry)
            } catch {
                guard error.code == ENOENT || error.code == ESRCH else { throw error }
            }
        }
        guard clashes.isEmpty else {
            throw ItemProblem(
                Problem(
                    .degraded,
                    "two nodes announce one hardware address, and the second gets no packets: "
                        + clashes.prefix(Self.namedEntries).joined(separator: ", "),
                    remedy: "restart the daemon of one of the two; a machine's copy has the original's device"
                ))
        }
    }

    /// By what the kernel tells entries of a table apart.
    private struct Key: Hashable {
        let table: Neighbor.Table
        let address: IPAddress?
        let hardwareAddress: HardwareAddress?

        init(_ entry: Neighbor) {
            table = entry.table
            address = entry.table == .neighbors ? entry.address : nil
            hardwareAddress = entry.table == .forwarding ? entry.hardwareAddress : nil
        }
    }
}
