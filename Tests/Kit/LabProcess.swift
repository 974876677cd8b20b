import FoundationEssentials
import Glibc
import NetworkNamespaces

/// A program that runs beside a test, on a node or in a pod. The lab ends it where the test does not.
public final class LabProcess: Sendable {
    /// The process.
    public let processIdentifier: pid_t
    /// The shell that waits for its end.
    private let shell: pid_t
    private let files: String

    /// Starts a program.
    ///
    /// - Parameters:
    ///   - command: what a shell becomes: it begins with `exec`, perhaps after other commands.
    ///   - namespace: where it runs.
    ///   - files: the path and the first part of the names of what is kept of it.
    init(_ command: String, in namespace: NetworkNamespace.Lease, files: String) async throws {
        self.files = files
        try Data("echo $$ $PPID >\(files).pid\n\(command)\n".utf8).write(to: URL(filePath: files + ".sh"))
        // The shell waits for it in the foreground: its status is there as soon as it ended.
        try await namespace.run {
            try execute(
                "(sh \(files).sh >\(files).out 2>\(files).err; echo $? >\(files).status) >/dev/null 2>&1 &")
        }
        let text = try await until("the process", { "there is no \(files).pid" }) {
            let text = try? String(contentsOfFile: files + ".pid", encoding: .utf8)
            return text?.hasSuffix("\n") == true ? text : nil
        }
        let numbers = text.split { !$0.isNumber }.compactMap { pid_t($0) }
        processIdentifier = numbers.first ?? -1
        shell = numbers.last ?? -1
    }

    /// What it wrote to its standard output so far.
    public var output: String { Self.text(of: files + ".out") }

    /// What it wrote to its standard error so far.
    public var errors: String { Self.text(of: files + ".err") }

    private static func text(of path: String) -> String {
        (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
    }

    /// What the kernel says of a process: `R (running)`, and how much it has run; `gone` where there is none.
    private static func state(of process: pid_t) -> String {
        let state = text(of: "/proc/\(process)/status").split(separator: "\n").first {
            $0.hasPrefix("State:")
        }
        guard let state else { return "gone" }
        let switches = text(of: "/proc/\(process)/schedstat").split(separator: "\n").first ?? ""
        return "\(state.dropFirst(6).trimmingPrefix { $0.isWhitespace }) (schedstat \(switches))"
    }

    /// Sends a signal.
    public func signal(_ number: Int32) { if processIdentifier > 1 { kill(processIdentifier, number) } }

    /// Whether a signal does not end a process: it has a handler of its own, or ignores it.
    public static func takes(_ number: Int32, _ process: pid_t) -> Bool {
        text(of: "/proc/\(process)/status").split(separator: "\n").contains { line in
            guard line.hasPrefix("SigCgt:") || line.hasPrefix("SigIgn:"),
                let mask = UInt64(line.suffix(16), radix: 16)
            else { return false }
            return mask >> (number - 1) & 1 == 1
        }
    }

    /// Whether it still runs.
    public var isRunning: Bool { !FileManager.default.fileExists(atPath: files + ".status") }

    /// Waits until it ended.
    ///
    /// - Returns: its exit status, 128 and more where a signal ended it.
    public func exitStatus(seconds: Double = 60) async throws -> Int {
        try await until(
            "its end", seconds: seconds,
            {
                "it is \(Self.state(of: processIdentifier)), the shell that waits for it is \(Self.state(of: shell)); "
                    + "it wrote: \(output.suffix(3000))\(errors.suffix(3000))"
            }
        ) {
            Int(Self.text(of: files + ".status").prefix { $0.isNumber })
        }
    }

    /// The ticks of processor time (hundredths of a second) that it took so far, in user mode and in the kernel.
    public var processorTicks: Int {
        // The name before them may hold anything, and ends with the last parenthesis.
        let fields = Self.text(of: "/proc/\(processIdentifier)/stat").split(separator: ")").last?
            .split(separator: " ").map { Int($0) ?? 0 }
        guard let fields, fields.count > 12 else { return 0 }
        return fields[11] + fields[12]
    }

    /// Ends it at once.
    func end() { if isRunning { signal(SIGKILL) } }
}

/// A program that failed.
public struct LabProcessFailure: Error, CustomStringConvertible {
    /// What it was, and what it wrote.
    public let description: String
}

extension LabProcess {
    /// Waits for its end, and for JSON on its standard output.
    ///
    /// - Throws: where its status is not 0, or what it wrote is not of that form.
    public func result<Value: Decodable>(
        of type: Value.Type = Value.self, seconds: Double = 120
    ) async throws -> Value {
        let status = try await exitStatus(seconds: seconds)
        let text = output
        guard status == 0 else {
            throw LabProcessFailure(
                description: "status \(status): \(text.suffix(3000))\(errors.suffix(3000))")
        }
        do {
            return try JSONDecoder().decode(type, from: Data(text.utf8))
        } catch {
            throw LabProcessFailure(description: "\(error) in: \(text.suffix(3000))")
        }
    }
}
