import Foundation

/// Who ran, by process.
struct ProfileProcesses {
    let sender: pid_t
    let receiver: pid_t
    /// Everything else in the lab.
    let load: Set<pid_t>

    func owner(of process: pid_t) -> ProfileSample.Owner {
        if process == sender { return .sender }
        if process == receiver { return .receiver }
        if process == 0 { return .idle }
        return load.contains(process) ? .load : .others
    }
}

/// One of perf's samples: what a processor did at one moment.
struct ProfileSample {
    enum Owner: String, CaseIterable {
        case sender = "twilld, sends"
        case receiver = "twilld, receives"
        case load = "the load's two ends"
        case others, idle
    }

    let owner: Owner
    /// The program's name.
    let program: String
    /// Names of functions from the innermost outwards.
    let stack: [String]
    /// Whether it ran in user space.
    let isUser: Bool

    /// Reads what `perf script -F comm,pid,ip,sym,dso` prints: a line with name and process, a line for each
    /// function, an empty line.
    static func parse(_ text: String, _ processes: ProfileProcesses) -> [ProfileSample] {
        var samples: [ProfileSample] = []
        var head: (program: String, process: pid_t)?
        var stack: [String] = []
        var isUser = false
        func finish() {
            if let head {
                samples.append(
                    ProfileSample(
                        owner: processes.owner(of: head.process), program: head.program, stack: stack,
                        isUser: isUser))
            }
            (head, stack, isUser) = (nil, [], false)
        }
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            let words = line.split(separator: " ")
            guard let first = words.first else {
                finish()
                continue
            }
            if head == nil {
                // A program's name may hold blanks; the process is the last word.
                head = (words.dropLast().joined(separator: " "), pid_t(words.last ?? "") ?? -1)
                if words.count == 1 { head = (String(first), -1) }
                continue
            }
            // address, function, (object): a Swift function's name holds blanks.
            let name = words.dropFirst().dropLast().joined(separator: " ")
            let object = words.last ?? ""
            if stack.isEmpty { isUser = !object.contains("kernel") && !object.contains("[") }
            stack.append(name.isEmpty ? "[unknown]" : name)
        }
        finish()
        return samples
    }

    /// What a daemon's time is spent on, by the first name that fits from the innermost function outwards.
    var activity: String {
        if isUser { return "twilld itself (Swift, checksums)" }
        for function in stack {
            for (activity, prefixes) in Self.activities where prefixes.contains(where: function.hasPrefix) {
                return activity
            }
        }
        return "other"
    }

    private static let activities: [(String, [String])] = [
        (
            "copies",
            [
                "_copy_to_iter", "_copy_from_iter", "__pi_memcpy", "rep_movs_alternative",
                "copy_page_from_iter",
                "simple_copy_to_iter", "__check_object_size",
            ]
        ),
        (
            "waking others",
            ["try_to_wake_up", "__wake_up", "sock_def_readable", "swake_up", "ep_poll_callback"]
        ),
        ("sleeping, switching", ["schedule", "__schedule", "pv_native_safe_halt", "io_cqring_wait"]),
        (
            "freeing what was sent",
            ["sock_wfree", "__napi_kfree_skb", "skb_release_", "kfree_skb", "consume_skb"]
        ),
        ("segmentation below UDP", ["validate_xmit_skb", "__skb_gso_segment", "skb_segment"]),
        ("veth and GRO, the receiving side", ["veth_poll", "net_rx_action"]),
        ("TCP receive", ["tcp_v4_rcv", "tcp_rcv_established"]),
        ("TCP send", ["tcp_sendmsg", "tcp_write_xmit"]),
        ("IP output, the sending side", ["ip_output", "__dev_queue_xmit"]),
        ("UDP send, the rest", ["udp_sendmsg", "io_sendmsg", "__sys_sendmmsg"]),
        ("UDP receive, the rest", ["udp_recvmsg", "io_recvmsg", "__sys_recvmmsg"]),
        ("TUN write, the rest", ["tun_get_user", "tun_chr_write"]),
        ("TUN read, the rest", ["tun_do_read", "tun_chr_read", "tun_ring_recv", "tun_put_user"]),
        ("io_uring itself", ["io_", "__io_", "__do_sys_io_uring"]),
    ]
}

/// What crossed the underlay while samples were taken, and what it took.
struct ProfileTransfer {
    let seconds: Double
    let packets: Double
    let bytes: Double
    /// Processor seconds of the whole machine, and of the two daemons.
    let machineSeconds: Double
    let daemonSeconds: Double
}

/// What a profile says.
struct ProfileReport {
    let title: String
    let samples: [ProfileSample]
    let transfer: ProfileTransfer
    let processors: Int

    private func share(_ count: Int) -> Double {
        samples.isEmpty ? 0 : 100 * Double(count) / Double(samples.count)
    }

    /// What takes from the profile's worth.
    var warnings: [String] {
        let others = samples.filter { $0.owner == .others }
        let processorsOfOthers = Double(others.count) / Double(max(samples.count, 1)) * Double(processors)
        guard processorsOfOthers > TuneRound.toleratedLoad else { return [] }
        let programs = Dictionary(grouping: others, by: \.program).mapValues(\.count)
            .sorted { ($1.value, $0.key) < ($0.value, $1.key) }.prefix(3)
            .map { $0.key + String(format: " %.0f %%", share($0.value)) }
        let processors = String(format: "%.1f", processorsOfOthers)
        return [
            "Others use this machine, \(processors) of its \(self.processors) processors "
                + "(\(programs.joined(separator: ", "))): every figure below lacks what they took."
        ]
    }

    func text(functions: Int) -> String {
        let nanoseconds = transfer.packets > 0 ? 1e9 / transfer.packets : .nan
        let gigabytes = transfer.bytes / 1e9
        var lines = [
            "",
            String(
                format: "\(title): %.2f Gbit/s and %.0f kpps on the wire, %d samples",
                transfer.bytes * 8e-9 / transfer.seconds,
                transfer.packets / transfer.seconds / 1000, samples.count),
            String(
                format: "  the machine: %.0f ns a packet, %.2f s/GB; the two daemons: %.0f ns, %.2f s/GB",
                transfer.machineSeconds * nanoseconds, transfer.machineSeconds / gigabytes,
                transfer.daemonSeconds * nanoseconds, transfer.daemonSeconds / gigabytes),
            "", Self.row("who, and on what", "% of the", "ns a"), Self.row("", "machine", "packet"),
        ]
        let machineNanoseconds = transfer.seconds * Double(processors) * nanoseconds
        func add(_ name: String, _ count: Int) {
            let part = Double(count) / Double(max(samples.count, 1))
            lines.append(
                Self.row(
                    name, String(format: "%.1f", share(count)),
                    String(format: "%.0f", part * machineNanoseconds)))
        }
        for owner in ProfileSample.Owner.allCases {
            let own = samples.filter { $0.owner == owner }
            guard !own.isEmpty else { continue }
            add(owner.rawValue, own.count)
            guard owner == .sender || owner == .receiver else { continue }
            let activities = Dictionary(grouping: own, by: \.activity).mapValues(\.count)
            for (activity, count) in activities.sorted(by: { ($1.value, $0.key) < ($0.value, $1.key) }) {
                add("    " + activity, count)
            }
        }
        lines += [
            "", Self.row("the daemons' functions, their own time", "% of the", "ns a"),
            Self.row("", "machine", "packet"),
        ]
        let daemons = samples.filter { $0.owner == .sender || $0.owner == .receiver }
        let own = Dictionary(grouping: daemons) { $0.stack.first ?? "[unknown]" }.mapValues(\.count)
        for (function, count) in own.sorted(by: { ($1.value, $0.key) < ($0.value, $1.key) }).prefix(functions)
        {
            add(function.count > Self.nameWidth ? function.prefix(Self.nameWidth - 1) + "…" : function, count)
        }
        return lines.joined(separator: "\n")
    }

    private static let nameWidth = 56

    private static func row(_ name: String, _ share: String, _ nanoseconds: String) -> String {
        func pad(_ text: String, _ width: Int) -> String {
            String(repeating: " ", count: max(width - text.count, 0)) + text
        }
        return name.padding(toLength: max(nameWidth, name.count), withPad: " ", startingAt: 0)
            + pad(share, 10) + pad(nanoseconds, 10)
    }

    /// Stacks of a daemon from the outermost function inwards, with how often each was seen.
    func stacks(of owner: ProfileSample.Owner) -> [(functions: [String], count: Int)] {
        Dictionary(grouping: samples.filter { $0.owner == owner }) { Array($0.stack.reversed()) }
            .map { ($0.key, $0.value.count) }
    }
}
