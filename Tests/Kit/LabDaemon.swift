import Counters
import FoundationEssentials
import Glibc
import NetworkNamespaces
import Telemetry

/// A `twilld` process in a lab.
public final class LabDaemon {
    /// The process.
    public let process: LabProcess
    private let socketPath: String

    /// The program that was built beside the tests.
    public static let binary: String = {
        if let named = getenv("TWILL_TEST_BINARY") { return String(cString: named) }
        let tests = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
        return String(tests[..<(tests.lastIndex(of: "/") ?? tests.startIndex)]) + "/twilld"
    }()

    init(process: LabProcess, socketPath: String) {
        self.process = process
        self.socketPath = socketPath
    }

    /// The process's number.
    public var processIdentifier: pid_t { process.processIdentifier }

    /// Everything that it wrote.
    public var log: String { process.output }

    /// What it says of itself; nil where it does not answer.
    public var status: NodeStatus? {
        guard var text = UnixHTTP.get("/status", at: socketPath) else { return nil }
        // A daemon of before there were components is asked when tests of faults are seen to fail on it.
        if text.hasPrefix("{"), !text.contains("\"components\"") {
            text = "{\"components\": [], " + text.dropFirst()
        }
        return try? JSONDecoder().decode(NodeStatus.self, from: Data(text.utf8))
    }

    /// What it tells to Prometheus.
    public var metrics: [LabMetric] { LabMetric.parse(UnixHTTP.get("/metrics", at: socketPath) ?? "") }

    /// Waits until it is ready.
    @discardableResult
    public func ready() async throws -> NodeStatus { try await wait(for: "ready") { $0.isReady } }

    /// Waits until its status is as `isSo` wants it; gives that status. A wait in vain fails after `seconds`.
    @discardableResult
    public func wait(
        for what: String, seconds: Double = 120, _ isSo: (NodeStatus) -> Bool
    ) async throws -> NodeStatus {
        try await until(what, seconds: seconds, { self.explanation }) {
            guard let status = self.status, status.processIdentifier == self.processIdentifier, isSo(status)
            else {
                return nil
            }
            return status
        }
    }

    /// Waits until one of its problems holds all of `words`; gives its sentence.
    @discardableResult
    public func problem(_ words: String..., seconds: Double = 120) async throws -> String {
        let status = try await wait(for: "a problem with \(words)", seconds: seconds) {
            $0.problems.contains { problem in words.allSatisfy { problem.contains($0) } }
        }
        return status.problems.first { problem in words.allSatisfy { problem.contains($0) } } ?? ""
    }

    /// Waits until it has no problem and is ready.
    @discardableResult
    public func healed(seconds: Double = 120) async throws -> NodeStatus {
        try await wait(for: "ready without a problem", seconds: seconds) { $0.isReady && $0.problems.isEmpty }
    }

    /// Its resident memory in bytes, as the kernel counts it; 0 where it is gone.
    public var residentBytes: Int { numbers(in: "statm").dropFirst().first.map { $0 * 4096 } ?? 0 }

    /// Its resident memory by kind, as proc_pid_status(5) names it, KiB.
    public var residentParts: String {
        let text = (try? String(contentsOfFile: "/proc/\(processIdentifier)/status", encoding: .utf8)) ?? ""
        return text.split(separator: "\n").filter { $0.hasPrefix("Rss") }.map { line in
            line.split(whereSeparator: \.isWhitespace).prefix(2).joined(separator: " ")
        }.joined(separator: ", ")
    }

    /// How many files it has open.
    public var openDescriptorCount: Int {
        (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(processIdentifier)/fd").count) ?? 0
    }

    /// Whether the kernel tells the time slices of threads.
    public static var timeSlicesAreTold: Bool {
        (try? String(contentsOfFile: "/proc/self/sched", encoding: .utf8))?.contains("se.slice") == true
    }

    /// The time slice of its first thread of a name, nanoseconds; nil where there is none, or the kernel does not tell.
    public func timeSlice(ofThread name: String) -> Int? {
        let tasks = "/proc/\(processIdentifier)/task"
        for thread in (try? FileManager.default.contentsOfDirectory(atPath: tasks)) ?? [] {
            let text = try? String(contentsOfFile: "\(tasks)/\(thread)/sched", encoding: .utf8)
            let lines = text?.split(separator: "\n") ?? []
            guard lines.first?.hasPrefix("\(name) (") == true else { continue }
            return lines.first { $0.hasPrefix("se.slice") }?.split(separator: " ").last.flatMap { Int($0) }
        }
        return nil
    }

    /// The nice values of its threads, by their names.
    public var niceValues: [String: [Int]] {
        let tasks = "/proc/\(processIdentifier)/task"
        var values: [String: [Int]] = [:]
        for thread in (try? FileManager.default.contentsOfDirectory(atPath: tasks)) ?? [] {
            // The name stands in parentheses and may hold anything; the nice value is the seventeenth field after it.
            guard let text = try? String(contentsOfFile: "\(tasks)/\(thread)/stat", encoding: .utf8),
                let first = text.firstIndex(of: "("), let last = text.lastIndex(of: ")")
            else { continue }
            let fields = text[last...].split(separator: " ").dropFirst()
            guard let value = fields.dropFirst(16).first.flatMap({ Int($0) }) else { continue }
            values[String(text[text.index(after: first)..<last]), default: []].append(value)
        }
        return values
    }

    private func numbers(in file: String) -> [Int] {
        let text = try? String(contentsOfFile: "/proc/\(processIdentifier)/\(file)", encoding: .utf8)
        return text?.split(whereSeparator: \.isWhitespace).compactMap { Int($0) } ?? []
    }

    /// The value of a counter; 0 where it does not answer.
    public func counter(_ counter: Counter) -> UInt64 { status?.value(of: counter) ?? 0 }

    /// How often its log has `text`.
    public func count(of text: String) -> Int { log.components(separatedBy: text).count - 1 }

    /// Waits until its log holds `text`.
    public func logged(_ text: String, seconds: Double = 120) async throws {
        _ = try await until("\(text) in the log", seconds: seconds, { self.explanation }) {
            self.log.contains(text) ? true : nil
        }
    }

    /// Sends a signal.
    public func signal(_ number: Int32) { process.signal(number) }

    /// Waits until it ended; gives its exit status, 128 and more where a signal ended it.
    public func exitStatus(seconds: Double = 120) async throws -> Int {
        try await process.exitStatus(seconds: seconds)
    }

    /// Whether it still runs.
    public var isRunning: Bool { process.isRunning }

    private var explanation: String {
        "problems: \(status?.problems ?? []), state: \(status?.state ?? "no answer"); the log:\n\(log.suffix(6000))"
    }
}

extension NodeStatus {
    /// The value of a counter; 0 before the data plane stands.
    public func value(of counter: Counter) -> UInt64 {
        counters.first { $0.name == counter.name }?.value ?? 0
    }

    /// The counters of drops that counted any.
    public var drops: [Counter: UInt64] {
        Counter.allCases.reduce(into: [:]) { drops, counter in
            let value = value(of: counter)
            if counter.isDrop, value > 0 { drops[counter] = value }
        }
    }
}

/// Waits for something that comes in its own time: looks every 20 milliseconds, and fails after `seconds`, with what
/// `explanation` says then. How long it took is no part of a test's verdict.
public func until<Value>(
    _ what: String, seconds: Double = 120, _ explanation: () -> String = { "" },
    _ value: () async throws -> Value?
) async throws -> Value {
    let clock = ContinuousClock()
    let deadline = clock.now + .seconds(seconds)
    while true {
        if let value = try await value() { return value }
        guard clock.now < deadline else { break }
        try await Task.sleep(for: .milliseconds(20))
    }
    throw WaitedInVain(description: "waited \(seconds) s for \(what) in vain; \(explanation())")
}

/// Something did not come.
public struct WaitedInVain: Error, CustomStringConvertible {
    /// What, and what was there instead.
    public let description: String
}
