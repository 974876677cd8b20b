internal import Addresses
import Glibc
import Health
import Netlink
internal import Reconciler

/// The VXLAN device is there as it is wanted, and up. It outlives the daemon, so that packets flow while that is
/// restarted; one that an earlier run or flanneld made is taken over where it is alike, and made anew where it is not.
struct VXLANDevice: DeviceItem, OwnedItem {
    let interfaceName: String
    let attributes: VXLANAttributes
    let hardwareAddress: HardwareAddress
    let mtu: Int
    /// What it is called beside its name, by which a later run knows it for this daemon's.
    let alias: String

    var name: String { "device \(interfaceName)" }
    var component: Component { Component(.tunnel, interfaceName) }

    func deviation(in state: NetworkState) throws -> String? {
        guard let link = state.link(named: interfaceName) else { return "missing" }
        let differences = try differences(of: link) + changes(to: link).words
        return differences.isEmpty ? nil : differences.joined(separator: ", ")
    }

    /// In what a device differs that cannot be changed.
    ///
    /// - Throws: `ItemProblem` where the name is taken by a device of another kind, which is somebody's.
    private func differences(of link: Link) throws -> [String] {
        guard let present = link.vxlan else {
            throw ItemProblem(
                Problem(
                    .cutOff, "there is a device \(interfaceName) already, and it is no VXLAN device",
                    remedy: "delete or rename it: ip link delete \(interfaceName)"))
        }
        var differences: [String] = []
        func compare<Value: Equatable>(_ what: String, _ path: KeyPath<VXLANAttributes, Value>) {
            if present[keyPath: path] != attributes[keyPath: path] { differences.append("another \(what)") }
        }
        compare("VNI", \.identifier)
        compare("lower interface", \.lowerIndex)
        compare("local address", \.localAddress)
        compare("port", \.port)
        compare("learning", \.learns)
        compare("GBP", \.hasGroupPolicy)
        return differences
    }

    /// What is to be changed on a device that is alike otherwise.
    private func changes(to link: Link) -> (change: LinkChange, words: [String]) {
        var change = LinkChange()
        var words: [String] = []
        if link.hardwareAddress != hardwareAddress {
            change.hardwareAddress = hardwareAddress
            words.append(
                "address \(link.hardwareAddress.map { "\($0)" } ?? "none") instead of \(hardwareAddress)")
        }
        if link.mtu != mtu {
            change.mtu = mtu
            words.append("MTU \(link.mtu) instead of \(mtu)")
        }
        if link.alias != alias {
            change.alias = alias
            words.append("alias \(link.alias ?? "none") instead of \(alias)")
        }
        if !link.isUp {
            change.isUp = true
            words.append("down")
        }
        return (change, words)
    }

    func update(in state: NetworkState, using socket: RouteSocket) throws {
        if let link = state.link(named: interfaceName), try !differences(of: link).isEmpty {
            try socket.deleteLink(index: link.index)
            try make(using: socket)
        } else if state.link(named: interfaceName) == nil {
            try make(using: socket)
        }
        guard let link = try socket.link(named: interfaceName) else {
            throw DeviceMissingError(interfaceName: interfaceName)
        }
        let change = changes(to: link).change
        if change != LinkChange() { try socket.setLink(index: link.index, change) }
    }

    private func make(using socket: RouteSocket) throws {
        do throws(NetlinkError) {
            try socket.addLink(
                named: interfaceName, mtu: mtu, hardwareAddress: hardwareAddress, attributes)
        } catch {
            guard error.code != EOPNOTSUPP else {
                throw ItemProblem(
                    Problem(
                        .cutOff, "this machine's kernel has no VXLAN",
                        remedy:
                            "load the module: modprobe vxlan (on some systems it is in a package of extra modules), "
                            + "or set Backend.Type to udp"))
            }
            guard error.code != EEXIST else {
                throw ItemProblem(
                    Problem(
                        .cutOff,
                        "another VXLAN device of this machine has VNI \(attributes.identifier) and port "
                            + "\(attributes.port) already, so that \(interfaceName) cannot be made",
                        remedy:
                            "delete it (ip -d link show type vxlan), or give the network another Backend.VNI")
                )
            }
            throw error
        }
    }

    func delete(using socket: RouteSocket) throws {
        guard let link = try socket.link(named: interfaceName), link.alias == alias else { return }
        try socket.deleteLink(index: link.index)
    }
}

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

/// The device carries no routes to nodes that are gone: flanneld leaves those of its last run, and takes none away at a
/// start.
struct NoFormerRoutes: KeptItem {
    let interfaceName: String
    let wanted: Set<IPPrefix>

    var name: String { "other routes of \(interfaceName)" }
    var component: Component { Component(.tunnel, "routes of \(interfaceName)") }
    var isEssential: Bool { false }

    private func surplus(in state: NetworkState) throws -> [Route] {
        let index = try state.device(interfaceName).index
        return state.routes.filter {
            $0.interfaceIndex == index && $0.origin == Route.bootOrigin && $0.kind == .unicast
                && $0.gateway != nil && $0.isOnLink && !wanted.contains($0.destination)
        }
    }

    func deviation(in state: NetworkState) throws -> String? {
        let surplus = try surplus(in: state)
        return surplus.isEmpty ? nil : surplus.map(state.text).joined(separator: ", ") + " not wanted"
    }

    func update(in state: NetworkState, using socket: RouteSocket) throws {
        for route in try surplus(in: state) { try socket.deleteRoute(route) }
    }
}
