import Foundation

/// What the figures were measured on.
struct Machine: Codable {
    let date: Date
    let kernel: String
    let processor: String
    let processors: Int
    let memoryGiB: Double
    let loadBefore: Double
    let commit: String
    let virtualization: String?
    // What decides how dear it is to sleep and to be woken. Files from before it was noted lack it.
    var kernelCommandLine: String? = nil
    var idleDriver: String? = nil
    var idleGovernor: String? = nil
    var frequencyGovernor: String? = nil
    /// How long an idle processor of this guest polls before it gives itself back to the host.
    var haltPollNanoseconds: Int? = nil

    static func current() -> Machine {
        func line(_ path: String) -> String? {
            let text = contents(path).trimmingCharacters(in: .whitespacesAndNewlines)
            return text.isEmpty ? nil : text
        }
        let info = contents("/proc/cpuinfo").split(separator: "\n")
        let model = info.first { $0.hasPrefix("model name") }?.split(separator: ":").last
        let commit = Installation.current.checkout.flatMap {
            try? output(of: ["git", "-C", $0, "describe", "--always", "--dirty"])
        }
        let idle = "/sys/devices/system/cpu/cpuidle"
        return Machine(
            date: .now, kernel: line("/proc/sys/kernel/osrelease") ?? "unknown",
            processor: model.map { $0.trimmingCharacters(in: .whitespaces) } ?? "unknown",
            processors: ProcessInfo.processInfo.activeProcessorCount,
            memoryGiB: Double(ProcessInfo.processInfo.physicalMemory) / 1_073_741_824,
            loadBefore: Double(contents("/proc/loadavg").split(separator: " ").first ?? "0") ?? 0,
            commit: commit?.trimmingCharacters(in: .whitespacesAndNewlines) ?? "unknown",
            virtualization: info.contains { $0.hasPrefix("flags") && $0.contains(" hypervisor") }
                ? "guest" : nil,
            kernelCommandLine: line("/proc/cmdline"), idleDriver: line("\(idle)/current_driver"),
            idleGovernor: line("\(idle)/current_governor"),
            frequencyGovernor: line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            haltPollNanoseconds: HaltPolling().nanoseconds)
    }

    /// What a wake-up costs here depends on these; in one sentence.
    var idleConditions: String {
        let polling = haltPollNanoseconds.map { $0 == 0 ? "off" : "\($0 / 1000) µs" } ?? "not to be set here"
        return
            "Idle driver \(idleDriver ?? "unknown"), idle governor \(idleGovernor ?? "unknown"), frequency governor "
            + "\(frequencyGovernor ?? "none"), guest halt polling \(polling)."
    }
}

/// Halt polling of a guest: an idle processor polls for a while before it halts, which hands it to the host and makes
/// the next wake-up dear. One setting for the whole machine.
struct HaltPolling {
    /// What `--halt-poll` takes.
    enum Setting: String, CaseIterable {
        case `default`, off

        /// The kernel's own default, and none.
        var nanoseconds: Int { self == .default ? 200_000 : 0 }
    }

    var path = "/sys/module/haltpoll/parameters/guest_halt_poll_ns"

    /// nil where the kernel has no such parameter.
    var nanoseconds: Int? { Int(contents(path).trimmingCharacters(in: .whitespacesAndNewlines)) }

    /// Calls `body` with the machine set so, and sets it back whether or not that throws.
    ///
    /// - Throws: what `body` throws; `CommandError` where the parameter cannot be written.
    func with<Result>(_ setting: Setting, _ body: () throws -> Result) throws -> Result {
        guard let before = nanoseconds else {
            throw CommandError(description: "\(path) cannot be read: halt polling cannot be set")
        }
        try write(setting.nanoseconds)
        defer {
            do { try write(before) } catch { ProgressLine.note("halt polling was \(before) ns: \(error)") }
        }
        return try body()
    }

    private func write(_ nanoseconds: Int) throws {
        let descriptor = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC)
        guard descriptor >= 0 else {
            throw CommandError(description: "\(path): \(String(cString: strerror(errno)))")
        }
        defer { close(descriptor) }
        let text = "\(nanoseconds)\n"
        guard Glibc.write(descriptor, text, text.utf8.count) == text.utf8.count else {
            throw CommandError(description: "\(path): \(String(cString: strerror(errno)))")
        }
    }
}

/// The memory of the machine.
enum HostMemory {
    /// What programs could still be given without paging, MiB: MemAvailable.
    static var availableMebibytes: Double {
        let line = contents("/proc/meminfo").split(separator: "\n").first { $0.hasPrefix("MemAvailable:") }
        let words = line?.split(separator: " ") ?? []
        return words.count > 1 ? (Double(words[1]) ?? .nan) / 1024 : .nan
    }
}
