public import Addresses
import Glibc
import Health
import Host
import Netlink

/// One file of `/proc/sys`, in the network namespace of the thread that touches it.
package struct SystemSetting: Sendable, Hashable {
    /// The path below `/proc/sys`: `net/ipv4/ip_forward`. (sysctl(8) writes dots, which interface names also
    /// have.)
    package let path: String

    /// Names a setting.
    package init(path: String) { self.path = path }

    /// Its value; nil where the kernel has no such setting.
    ///
    /// - Throws: `SystemError` where the file cannot be read or written.
    package func value() throws -> String? {
        try TextFile.read("/proc/sys/\(path)").map { String($0.prefix { !$0.isNewline }) }
    }

    /// Sets it.
    ///
    /// - Throws: `SystemError` where the file cannot be written, as in a container without privilege.
    func set(_ value: String) throws {
        let path = "/proc/sys/\(path)"
        let descriptor = open(path, O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw SystemError(path, code: errno) }
        defer { close(descriptor) }
        guard write(descriptor, value, value.utf8.count) == value.utf8.count else {
            throw SystemError(path, code: errno)
        }
    }

    /// Whether the machine forwards packets of a family.
    static func forwarding(_ family: AddressFamily) -> SystemSetting {
        SystemSetting(
            path: family == .ipv4 ? "net/ipv4/ip_forward" : "net/ipv6/conf/all/forwarding")
    }
}

/// A setting of the tunnel device alone, which is therefore twill's to make; it ends with the device. It is read in
/// `/proc/sys` and made by rtnetlink: CAP_NET_ADMIN is enough for that, where a container without privilege has
/// `/proc/sys` read-only.
struct InterfaceSetting: KeptItem {
    let interfaceName: String
    let setting: LinkSetting
    let value: UInt32

    /// Takes in packets whose source is this machine's own address: the ICMP errors that the data plane writes into
    /// the device. Without it the kernel drops them as martians (`fib_validate_source`).
    static func acceptsLocalSources(_ interfaceName: String) -> InterfaceSetting {
        InterfaceSetting(interfaceName: interfaceName, setting: .acceptLocal, value: 1)
    }

    /// Forwards what comes out of the overlay.
    static func forwards(_ interfaceName: String) -> InterfaceSetting {
        InterfaceSetting(interfaceName: interfaceName, setting: .forwarding, value: 1)
    }

    private var file: SystemSetting { .ofInterface(interfaceName, setting.fileName) }

    var name: String { "setting \(file.path)" }
    var component: Component { Component(.setting, file.path) }
    var isEssential: Bool { false }

    func deviation(in state: NetworkState) throws -> String? {
        _ = try state.device(interfaceName)
        let present = try file.value()
        return present == "\(value)" ? nil : "\(present ?? "absent") instead of \(value)"
    }

    func update(in state: NetworkState, using socket: RouteSocket) throws {
        try socket.setLink(
            index: try state.device(interfaceName).index, LinkChange(settings: [setting: value]))
    }
}

/// The device does not ask for packets to come from where their source is routed to (RFC 3704, strict mode): a pod's
/// answer may come by the overlay to a node whose own way back is another. The setting ends with the device.
struct LooseReversePath: KeptItem {
    /// What RFC 3704 calls loose (ip-sysctl.rst).
    private static let loose: UInt32 = 2

    let interfaceName: String

    var name: String { "setting \(ownSetting.path)" }
    var component: Component { Component(.setting, ownSetting.path) }
    var isEssential: Bool { false }

    private var ownSetting: SystemSetting {
        .ofInterface(interfaceName, LinkSetting.reversePathFilter.fileName)
    }

    func deviation(in state: NetworkState) throws -> String? {
        _ = try state.device(interfaceName)
        // The larger of the two counts (ip-sysctl.rst), and 2, loose, is larger than 1, strict: the device's own
        // setting is enough whatever the machine's says.
        let values = [try ownSetting.value(), try SystemSetting.ofInterface("all", "rp_filter").value()]
        return values.compactMap { $0.flatMap { Int($0) } }.max() == 1 ? "strict instead of loose" : nil
    }

    func update(in state: NetworkState, using socket: RouteSocket) throws {
        try socket.setLink(
            index: try state.device(interfaceName).index,
            LinkChange(settings: [.reversePathFilter: Self.loose]))
    }
}

/// The machine forwards packets, or somebody is told. Turning it on makes every interface of the machine a router's,
/// which is for the operator, Docker or the CNI plugin to decide; all of these do.
package struct ForwardingEnabled: DesiredItem {
    private let family: AddressFamily

    /// Looks after the forwarding of one family.
    package init(family: AddressFamily) { self.family = family }

    private var setting: SystemSetting { .forwarding(family) }

    package var name: String { "setting \(setting.path)" }
    package var component: Component { Component(.setting, setting.path) }
    package var isEssential: Bool { false }
    package var effect: Problem.Effect { .cutOff }

    /// Says nothing where the machine forwards.
    ///
    /// - Throws: `SystemSettingError` where it does not; `SystemError` where the setting cannot be read.
    package func deviation(in state: NetworkState) throws -> String? {
        if try setting.value() == "0" { throw SystemSettingError.forwardingIsOff(family) }
        return nil
    }
}

/// The device, which is twill's own, takes addresses of IPv6: a machine may have that switched off for new interfaces.
struct CarriesIPv6: KeptItem {
    let interfaceName: String

    private var setting: SystemSetting {
        SystemSetting(path: "net/ipv6/conf/\(interfaceName)/disable_ipv6")
    }

    var name: String { "setting \(setting.path)" }
    var component: Component { Component(.setting, setting.path) }

    func deviation(in state: NetworkState) throws -> String? {
        _ = try state.device(interfaceName)
        guard let value = try setting.value() else {
            throw ItemProblem(
                Problem(
                    .cutOff, "this kernel has no IPv6, or \(interfaceName) has none",
                    remedy: "start the kernel without ipv6.disable=1, or set EnableIPv6 to false"))
        }
        return value == "0" ? nil : "\(value) instead of 0"
    }

    func update(in state: NetworkState, using _: RouteSocket) throws { try setting.set("0") }
}

/// A bridge hands its packets to iptables, and to ip6tables where pods have IPv6, or somebody is told: kube-proxy's rules
/// are there, and without it a pod reaches no Service whose pod is on the same bridge.
package struct BridgeNetfilter: DesiredItem {
    private let setting = SystemSetting.bridgeNetfilter(.ipv4)
    private let families: [AddressFamily]

    /// - Parameter families: those that pods have.
    package init(families: [AddressFamily]) { self.families = families }

    package var name: String { "setting \(setting.path)" }
    package var component: Component { Component(.setting, setting.path) }
    package var isEssential: Bool { false }
    package var needsResync: Bool { true }

    /// Says nothing where it is as it should be.
    ///
    /// - Throws: `ItemProblem` where it is off, which twill does not change; `SystemError` where it cannot be read.
    package func deviation(in state: NetworkState) throws -> String? {
        for family in families {
            let value = try SystemSetting.bridgeNetfilter(family).value()
            guard let error = SystemSettingError.bridgeNetfilter(family, value: value) else { continue }
            throw ItemProblem(Problem(.degraded, error.cause, remedy: error.remedy))
        }
        return nil
    }
}

extension SystemSettingError {
    /// What the daemon and `twilld check` say of a node of Kubernetes whose bridges do not ask iptables.
    ///
    /// - Parameters:
    ///   - family: whose packets are meant.
    ///   - value: of `SystemSetting.bridgeNetfilter`; nil where the kernel has no such setting.
    /// - Returns: nil where they do.
    public static func bridgeNetfilter(_ family: AddressFamily, value: String?) -> SystemSettingError? {
        switch value {
        case nil:
            SystemSettingError(
                cause:
                    "the kernel module br_netfilter is not loaded, so pods do not reach Services whose pods are on their own node",
                remedy:
                    "run on the node: modprobe br_netfilter; and for good: echo br_netfilter >/etc/modules-load.d/k8s.conf"
            )
        case "0":
            SystemSettingError(
                cause:
                    "\(SystemSetting.bridgeNetfilter(family).dottedName) is 0, so pods do not reach Services whose pods are on their own node",
                remedy: "run: sysctl -w \(SystemSetting.bridgeNetfilter(family).dottedName)=1")
        default: nil
        }
    }

    /// What the daemon and `twilld check` say where the machine is no router.
    public static func forwardingIsOff(_ family: AddressFamily) -> SystemSettingError {
        let name = family == .ipv4 ? "net.ipv4.ip_forward" : "net.ipv6.conf.all.forwarding"
        return SystemSettingError(
            cause: """
                \(name) is 0, so this machine forwards no packets between pods and the overlay, and twill \
                does not turn a machine into a router by itself
                """,
            remedy: "run: sysctl -w \(name)=1"
                + (family == .ipv4
                    ? ""
                    : " (an interface that gets its address by router advertisements then needs accept_ra=2)")
        )
    }
}

extension SystemSetting {
    /// Whether bridges ask iptables, or ip6tables for IPv6.
    package static func bridgeNetfilter(_ family: AddressFamily) -> SystemSetting {
        SystemSetting(path: "net/bridge/bridge-nf-call-\(family == .ipv4 ? "iptables" : "ip6tables")")
    }

    /// As sysctl(8) has it: for a path without dots in its parts.
    fileprivate var dottedName: String { path.replacing("/", with: ".") }

    /// Whether an interface alone does not forward: where the whole machine does not, that is told already.
    ///
    /// - Throws: `SystemError` where the file cannot be read or written.
    package static func isOff(_ interfaceName: String) throws -> Bool {
        guard try SystemSetting(path: "net/ipv4/ip_forward").value() != "0" else { return false }
        return try SystemSetting.ofInterface(interfaceName, "forwarding").value() == "0"
    }

    /// A setting of an interface, or of `all`.
    package static func ofInterface(_ name: String, _ setting: String) -> SystemSetting {
        SystemSetting(path: "net/ipv4/conf/\(name)/\(setting)")
    }
}
