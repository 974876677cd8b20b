internal import Addresses
import Glibc
import Health
import Netlink
internal import Reconciler

/// A tunnel device of the kernel's is there as it is wanted, and up. It outlives the daemon, so that packets flow while that is
/// restarted; one that an earlier run or flanneld made is taken over where it is alike, and made anew where it is not.
struct KernelDevice: DeviceItem, OwnedItem {
    let interfaceName: String
    let kind: LinkKind
    /// Its address as an Ethernet device; nil for one that is none.
    var hardwareAddress: HardwareAddress?
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
    func differences(of link: Link) throws -> [String] {
        guard let present = link.kind, let differences = kind.differences(of: present) else {
            throw ItemProblem(
                Problem(
                    .cutOff, "there is a device \(interfaceName) already, and it is no \(kind.title) device",
                    remedy: "delete or rename it: ip link delete \(interfaceName)"))
        }
        return differences
    }

    /// What is to be changed on a device that is alike otherwise.
    private func changes(to link: Link) -> (change: LinkChange, words: [String]) {
        var change = LinkChange()
        var words: [String] = []
        if let hardwareAddress, link.hardwareAddress != hardwareAddress {
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

    /// Makes the device, which is down at first.
    ///
    /// - Throws: `ItemProblem` where the kernel has no such devices, or another one is in its place.
    func make(using socket: RouteSocket) throws {
        do throws(NetlinkError) {
            try socket.addLink(named: interfaceName, mtu: mtu, hardwareAddress: hardwareAddress, kind)
        } catch {
            if error.code == EOPNOTSUPP { throw kind.kernelLacksIt }
            guard error.code == EEXIST, let words = kind.wordsWhereThereIsOne(beside: interfaceName) else {
                throw error
            }
            throw ItemProblem(Problem(.cutOff, words.cause, remedy: words.remedy))
        }
    }

    func delete(using socket: RouteSocket) throws {
        guard let link = try socket.link(named: interfaceName), link.alias == alias else { return }
        try socket.deleteLink(index: link.index)
    }
}

extension LinkKind {
    /// What people call it.
    fileprivate var title: String {
        switch self {
        case .vxlan: "VXLAN"
        case .ipip: "IPIP"
        case .wireguard: "WireGuard"
        }
    }

    /// In what another device differs; nil where it is of another kind.
    fileprivate func differences(of present: LinkKind) -> [String]? {
        var differences: [String] = []
        func compare<Whole, Value: Equatable>(
            _ what: String, _ one: Whole, _ other: Whole, _ path: KeyPath<Whole, Value>
        ) {
            if one[keyPath: path] != other[keyPath: path] { differences.append("another \(what)") }
        }
        switch (self, present) {
        case (.vxlan(let wanted), .vxlan(let present)):
            compare("VNI", wanted, present, \.identifier)
            compare("lower interface", wanted, present, \.lowerIndex)
            compare("local address", wanted, present, \.localAddress)
            compare("port", wanted, present, \.port)
            compare("learning", wanted, present, \.learns)
            compare("GBP", wanted, present, \.hasGroupPolicy)
        case (.ipip(let wanted), .ipip(let present)):
            compare("local address", wanted, present, \.localAddress)
            compare("remote address", wanted, present, \.remoteAddress)
        case (.wireguard, .wireguard): break
        default: return nil
        }
        return differences
    }

    /// The kernel has no devices of the kind.
    var kernelLacksIt: ItemProblem {
        let other =
            switch self {
            case .vxlan: "udp"
            case .ipip, .wireguard: "vxlan or udp"
            }
        return ItemProblem(
            Problem(
                .cutOff, "this machine's kernel has no \(title)",
                remedy:
                    "load the module: modprobe \(name) (on some systems it is in a package of extra modules), "
                    + "or set Backend.Type to \(other)"), needsAnotherKernel: true)
    }

    /// What it means that the kernel refuses a device because there is one; nil where that is a matter of its name alone.
    fileprivate func wordsWhereThereIsOne(beside name: String) -> (cause: String, remedy: String)? {
        switch self {
        case .vxlan(let attributes):
            (
                "another VXLAN device of this machine has VNI \(attributes.identifier) and port "
                    + "\(attributes.port) already, so that \(name) cannot be made",
                "delete it (ip -d link show type vxlan), or give the network another Backend.VNI"
            )
        case .ipip(let attributes):
            (
                "another IPIP device of this machine has the local address "
                    + "\(attributes.localAddress.map { "\($0)" } ?? "any") and no other end already, so that "
                    + "\(name) cannot be made",
                "delete it (ip -d link show type ipip)"
            )
        case .wireguard: nil
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
