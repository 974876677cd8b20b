import Health
import Netlink
import Reconciler

/// The interface that pods are behind hands on what it takes in, or somebody is told: the setting is of whoever made
/// it.
struct PodInterfaceForwards: DesiredItem {
    let surroundings: PacketFilterEffects.Surroundings

    var name: String { "setting forwarding of the pods' interface" }
    var component: Component { Component(.setting, "pods-forwarding") }
    var isEssential: Bool { false }
    var needsResync: Bool { true }

    func deviation(in state: NetworkState) throws -> String? {
        guard let link = state.podInterface(subnet: surroundings.subnet, tunnel: surroundings.tunnel),
            try SystemSetting.isOff(link.name)
        else {
            return nil
        }
        throw ItemProblem(
            Problem(
                .cutOff,
                "net.ipv4.conf.\(link.name).forwarding is 0, so this machine forwards nothing that pods behind \(link.name) send",
                remedy: "run: sysctl -w net.ipv4.conf.\(link.name).forwarding=1"))
    }
}

/// The underlay's interface hands on what it takes in, or somebody is told. Tunnel datagrams are for this machine
/// itself and need it not; what pods get from outside of the overlay does.
struct UnderlayForwards: DesiredItem {
    let interfaceName: String
    /// Whether other nodes' pods' packets come by it as they are (host-gw).
    let carriesPods: Bool

    var name: String { "setting forwarding of \(interfaceName)" }
    var component: Component { Component(.setting, "underlay-forwarding") }
    var isEssential: Bool { false }
    var needsResync: Bool { true }

    func deviation(in state: NetworkState) throws -> String? {
        guard try SystemSetting.isOff(interfaceName) else { return nil }
        throw ItemProblem(
            Problem(
                carriesPods ? .cutOff : .degraded,
                "net.ipv4.conf.\(interfaceName).forwarding is 0, so pods here get no \(carriesPods ? "packets" : "answers from outside the overlay") by \(interfaceName)",
                remedy: "run: sysctl -w net.ipv4.conf.\(interfaceName).forwarding=1"))
    }
}

/// The underlay's interface takes datagrams from every node, or somebody is told: in strict mode (RFC 3704) it drops
/// those of a node to which the route leaves by another interface.
struct UnderlayReversePath: DesiredItem {
    /// How many nodes' routes are asked for.
    private static let peerLimit = 16

    let interfaceName: String
    let effects: PacketFilterEffects

    var name: String { "setting rp_filter of \(interfaceName)" }
    var component: Component { Component(.setting, "underlay-reverse-path") }
    var isEssential: Bool { false }
    var needsResync: Bool { true }

    func deviation(in state: NetworkState) throws -> String? {
        let values = try [interfaceName, "all"].map { try SystemSetting.ofInterface($0, "rp_filter").value() }
        // The larger of the two counts (ip-sysctl.rst).
        guard values.compactMap({ $0.flatMap { Int($0) } }).max() == 1,
            let link = state.link(named: interfaceName)
        else { return nil }
        let socket = try RouteSocket()
        for address in effects.peerAddresses.prefix(UnderlayReversePath.peerLimit) {
            guard let index = try? socket.route(to: .v4(address)).interfaceIndex, index != link.index,
                let other = state.link(index: index), other.name != "lo"
            else { continue }
            throw ItemProblem(
                Problem(
                    .degraded,
                    "rp_filter of \(interfaceName) is 1 (strict) and the route to \(address) leaves by \(other.name), so tunnel datagrams from that node that come by \(interfaceName) are dropped",
                    remedy: "run: sysctl -w net.ipv4.conf.\(interfaceName).rp_filter=2, or mend the route"))
        }
        return nil
    }
}
