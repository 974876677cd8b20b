import Addresses
import Leases
import Node
import Reconciler

/// One line of `twilld check`.
package struct Finding: Sendable, Equatable {
    /// How bad it is.
    package enum Outcome: String, Sendable {
        /// As twilld needs it.
        case good = "ok"
        /// twilld runs without it, slower or with less.
        case degraded = "warn"
        /// twilld does not carry packets like this.
        case bad = "FAIL"
    }

    /// What was looked at, in one or two words.
    let subject: String
    package let outcome: Outcome
    /// What was found.
    let detail: String
    /// What to do about it; nil where nothing is to be done.
    let remedy: String?

    init(_ subject: String, _ outcome: Outcome, _ detail: String, remedy: String? = nil) {
        self.subject = subject
        self.outcome = outcome
        self.detail = detail
        self.remedy = remedy
    }

    /// `FAIL  ip_forward        0: do this`.
    package var line: String {
        let remedy = remedy.map { ": " + $0 } ?? ""
        return padded(outcome.rawValue, 6) + padded(subject, 18) + detail + remedy
    }

    /// How much is how, in one line: `1 FAIL, 2 warn, 20 ok`.
    package static func summary(_ findings: [Finding]) -> String {
        [Outcome.bad, .degraded, .good].map { outcome in
            "\(findings.count { $0.outcome == outcome }) \(outcome.rawValue)"
        }.joined(separator: ", ")
    }

    private func padded(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(1, width - text.count))
    }
}

extension Finding {
    /// The oldest kernel that twilld runs on: 6.1 has DEFER_TASKRUN, and multishot receives since 6.0.
    static let kernelFloor = (major: 6, minor: 1)

    /// Judges a kernel's release, as `uname -r` spells it.
    static func kernel(release: String) -> Finding {
        let numbers = release.split(whereSeparator: { !$0.isNumber }).prefix(2).compactMap { Int($0) }
        let floor = "\(kernelFloor.major).\(kernelFloor.minor)"
        guard numbers.count == 2, release.first?.isNumber == true else {
            return Finding(
                "kernel", .degraded, "\"\(release)\"", remedy: "twilld needs Linux \(floor) or later")
        }
        guard (numbers[0], numbers[1]) >= (kernelFloor.major, kernelFloor.minor) else {
            return Finding("kernel", .bad, "Linux \(release)", remedy: "twilld needs Linux \(floor) or later")
        }
        return Finding("kernel", .good, "Linux \(release)")
    }

    /// Judges `/proc/sys/kernel/io_uring_disabled` (Linux 6.6): 0 everybody may, 1 only CAP_SYS_ADMIN and a group
    /// may, 2 nobody may.
    static func uringAllowed(setting: String?, isRoot: Bool) -> Finding {
        switch setting {
        case nil: Finding("io_uring", .good, "allowed; this kernel has no switch for it")
        case "0": Finding("io_uring", .good, "allowed")
        case "1" where isRoot: Finding("io_uring", .good, "allowed for root")
        case let setting?:
            Finding(
                "io_uring", .degraded, "kernel.io_uring_disabled is \(setting)",
                remedy:
                    "twilld makes plain system calls, which is slower; sysctl -w kernel.io_uring_disabled=0"
                    + (setting == "1" ? ", or run as root" : ""))
        }
    }

    /// Judges `/proc/sys/net/ipv4/ip_forward`, or its like of IPv6.
    static func forwarding(_ family: AddressFamily, setting: String?) -> Finding {
        let name = family == .ipv4 ? "ip_forward" : "ipv6 forwarding"
        let problem = SystemSettingError.forwardingIsOff(family)
        return switch setting {
        case "1": Finding(name, .good, "1")
        case "0": Finding(name, .bad, problem.cause, remedy: problem.remedy)
        default: Finding(name, .bad, "not readable", remedy: problem.remedy)
        }
    }

    /// Judges `/proc/sys/net/bridge/bridge-nf-call-iptables`, which a node of Kubernetes needs.
    static func bridgeNetfilter(setting: String?) -> Finding {
        guard let problem = SystemSettingError.bridgeNetfilter(.ipv4, value: setting) else {
            return Finding("br_netfilter", .good, "bridges ask iptables")
        }
        return Finding("br_netfilter", .degraded, problem.cause, remedy: problem.remedy)
    }

    /// Judges what the kernel lets this process do; in the words of a start that is in vain.
    static func rights(_ problem: (cause: String, remedy: String)?) -> Finding {
        problem.map { Finding("rights", .bad, $0.cause, remedy: $0.remedy) }
            ?? Finding("rights", .good, "the network may be configured, /dev/net/tun opened")
    }

    /// Judges who has the tunnel's port, in the words of the problem that the daemon would have. It may be the
    /// flanneld that twilld is to replace.
    static func port(_ endpoint: Endpoint, holder: String?) -> Finding {
        guard let holder else { return Finding("port", .good, "UDP \(endpoint) is free") }
        let taken = PortTaken(endpoint: endpoint, holder: holder)
        return Finding("port", .degraded, taken.cause, remedy: taken.problem(retrySeconds: 2).remedy)
    }

    /// Judges who has the tunnel device's name.
    static func device(_ name: String, holder: String?) -> Finding {
        guard let holder else { return Finding("device", .good, "no process has \(name)") }
        return Finding(
            "device", .degraded, "\(name) is held by \(holder)",
            remedy: "stop it before twilld is started, or give --tun-name")
    }

    /// Judges which programs there are that keep packet filter rules.
    static func rulePrograms(hasNft: Bool, hasIptables: Bool) -> Finding {
        let found = [(hasNft, "nft"), (hasIptables, "iptables")].filter(\.0).map(\.1)
        return found.isEmpty
            ? Finding(
                "rules", .degraded, "neither nft nor iptables is in PATH",
                remedy:
                    "without one, pods' packets are neither masqueraded (--ip-masq) nor accepted where FORWARD drops; "
                    + "install nftables or iptables")
            : Finding("rules", .good, found.joined(separator: " and "))
    }

    /// Judges what a store said of itself: the network's configuration, nil for none.
    static func store(_ name: String, configuration: String?) -> Finding {
        guard let configuration else {
            return Finding(
                "store", .degraded, "\(name) answers and has no network configuration",
                remedy: "twilld waits for one: twilld network set FILE")
        }
        do throws(NetworkConfigurationError) {
            let network = try NetworkConfiguration(parsing: configuration)
            return Finding("store", .good, "\(name) answers; the network is \(network.networkText)")
        } catch {
            return Finding("store", .bad, "\(name): \(error.description)", remedy: "twilld network set FILE")
        }
    }

    /// Judges the limit of locked memory. Registered buffers count against it, except for CAP_IPC_LOCK.
    static func lockedMemory(limitBytes: UInt64?, isRegistered: Bool) -> Finding {
        let limit = limitBytes.map { "limit \($0 / 1024) KiB" } ?? "no limit"
        return isRegistered
            ? Finding("memlock", .good, limit)
            : Finding(
                "memlock", .degraded, limit,
                remedy: "packet buffers can't be registered, which costs a few percent; "
                    + "LimitMEMLOCK=infinity in the unit file")
    }
}
