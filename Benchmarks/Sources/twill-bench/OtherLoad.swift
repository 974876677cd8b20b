import Foundation

/// Processor time of the programs outside of the lab: on a machine whose processors the lab keeps busy, what
/// others take is missing from every figure.
struct OtherLoad {
    private let began = Date.now
    private let seconds: Double

    static func now() -> OtherLoad { OtherLoad(seconds: secondsSoFar()) }

    /// Processors that other programs kept busy since then, on average.
    func processors() -> Double {
        let elapsed = Date.now.timeIntervalSince(began)
        return elapsed > 0 ? max(OtherLoad.secondsSoFar() - seconds, 0) / elapsed : 0
    }

    /// Of every process that is not this one nor its child (perf, which counts), not in a namespace of the lab and no
    /// thread of the kernel, which serves the lab as well; with the children that it has waited for.
    private static func secondsSoFar() -> Double {
        let namespaces = Lab.namespaces.map { namespace("/run/netns/\($0)") }
        let processes = ((try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? [])
            .compactMap { pid_t($0) }
        let parent = "\(getpid())"
        var ticks = 0.0
        for process in processes where process != getpid() {
            guard let own = namespace("/proc/\(process)/ns/net"), !namespaces.contains(own) else { continue }
            // proc_pid_stat(5), behind the name, which may hold anything: state, parent, …, user, system, waited-for
            // children's user and system time as 12th to 15th.
            let fields =
                contents("/proc/\(process)/stat").split(separator: ")").last?.split(separator: " ") ?? []
            guard fields.count > 14, fields[1] != "2", fields[1] != parent else { continue }
            ticks += fields[11...14].reduce(0) { $0 + (Double($1) ?? 0) }
        }
        return ticks / Double(sysconf(Int32(_SC_CLK_TCK)))
    }

    private static func namespace(_ path: String) -> ino_t? {
        var status = stat()
        return stat(path, &status) == 0 ? status.st_ino : nil
    }
}
