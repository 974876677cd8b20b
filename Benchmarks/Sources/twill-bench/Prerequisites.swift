import Foundation

/// What a run needs beside the candidates: rights, programs, and what the checkout builds.
enum Prerequisites {
    /// Programs without which nothing can be measured, and the Debian package of each.
    private static let programs = [
        "bridge": "iproute2", "ethtool": "ethtool", "ip": "iproute2", "iperf3": "iperf3",
        "ping": "iputils-ping", "sysctl": "procps", "taskset": "util-linux",
    ]

    /// Throws where a right or a program is missing; builds what a checkout has not built.
    static func check(twilld: String?) throws {
        guard getuid() == 0 else {
            throw CommandError(
                description: "network namespaces and TUN devices need root: run it with sudo")
        }
        let missing = missingPackages(of: programs)
        guard missing.isEmpty else {
            throw CommandError(
                description: "programs are missing: apt-get install \(missing.joined(separator: " "))")
        }
        if let checkout = Installation.current.checkout {
            try build(
                ["traffic", "baseline", "floor", "scale-forwarder", "libcopycount.so", "libcongestion.so"]
                    .map(
                        sibling),
                ["--package-path", checkout + "/Benchmarks"])
            if twilld == Installation.current.twilld {
                try build(
                    [Installation.current.twilld], ["--package-path", checkout, "--product", "twilld", "--static-swift-stdlib"])
            }
        }
        if let twilld, !FileManager.default.isExecutableFile(atPath: twilld) {
            throw CommandError(description: "--twilld \(twilld): no such program")
        }
    }

    /// Why copies and operations cannot be counted; nil where they can.
    static var obstacleToCounting: String? {
        let missing = missingPackages(of: ["perf": "linux-perf"])
        guard missing.isEmpty else {
            return "perf is not installed (apt-get install \(missing.joined(separator: " ")))"
        }
        do {
            try output(of: ["perf", "stat", "-e", "raw_syscalls:sys_enter", "true"])
            return nil
        } catch {
            return "perf cannot count tracepoints here (\(error))"
        }
    }

    /// Why perf cannot sample; nil where it can.
    static var obstacleToSampling: String? {
        let missing = missingPackages(of: ["perf": "linux-perf"])
        return missing.isEmpty
            ? nil : "perf is not installed: apt-get install \(missing.joined(separator: " "))"
    }

    /// The packages of programs that are not in PATH.
    static func missingPackages(of programs: [String: String]) -> [String] {
        let folders = (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":")
        let missing = programs.filter { program, _ in
            !folders.contains { FileManager.default.isExecutableFile(atPath: "\($0)/\(program)") }
        }
        return Set(missing.values).sorted()
    }

    private static func build(_ products: [String], _ words: [String]) throws {
        guard products.contains(where: { !FileManager.default.fileExists(atPath: $0) }) else { return }
        let command = ["swift", "build", "--configuration", "release"] + words
        ProgressLine.note("not built yet: " + command.joined(separator: " "))
        try output(of: command)
    }
}
