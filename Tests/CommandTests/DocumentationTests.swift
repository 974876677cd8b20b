import Counters
import FoundationEssentials
import Glibc
import Health
import NetworkNamespaces
import Telemetry
import Testing

@testable import NodeDaemon
@testable import twilld

/// The files of the repository that operators get, held against the program.
@Suite struct DocumentationTests {
    private static let root = String(#filePath.dropLast("/Tests/CommandTests/DocumentationTests.swift".count))

    private static func text(_ path: String) throws -> String {
        try String(contentsOfFile: "\(root)/\(path)", encoding: .utf8)
    }

    private static func sources(below directory: String) throws -> [String] {
        let base = "\(root)/\(directory)"
        let files = try FileManager.default.subpathsOfDirectory(atPath: base)
        return try files.filter { $0.hasSuffix(".swift") }.map { try text("\(directory)/\($0)") }
    }

    /// A status with everything that may be missing.
    private static var status: NodeStatus {
        var status = NodeStatus(
            version: "1", processIdentifier: 1, uptimeSeconds: 1, isReady: true, state: "",
            store: .init(name: "", isConnected: true, reconnects: 0))
        status.tunnel = .init(interface: "flannel0", network: "10.66.0.0/16", mtu: 1472)
        status.lease = .init(
            subnet: "10.66.28.0/24", isReservation: false, ageSeconds: 1, expirySeconds: 1)
        status.peers = [
            .init(
                subnet: "10.66.29.0/24", endpoint: "",
                traffic: .init(
                    sent: .init(packets: 1, bytes: 1), received: .init(packets: 1, bytes: 1),
                    lastReceivedSeconds: 1))
        ]
        return status
    }

    @Test func everyMetricIsExplained() throws {
        let manual = try Self.text("docs/operations.md")
        var metrics = MetricsText()
        metrics.add(Self.status)
        metrics.addPeers(Self.status, limit: 10, unixTime: 0)
        metrics.addProcess()
        metrics.add(CounterTotals([]))
        let names = metrics.text.matches(of: #/(?m)^# TYPE (\S+)/#).map { String($0.1) }
        #expect(names.count >= 60)
        for name in names { #expect(manual.contains("`\(name)`"), "docs/operations.md lacks \(name)") }
    }

    @Test func everyReasonForADropIsExplained() throws {
        let manual = try Self.text("docs/operations.md")
        for counter in Counter.allCases where counter.isDrop {
            #expect(manual.contains("`\(counter.name)`"), "docs/operations.md lacks \(counter.name)")
        }
    }

    @Test func everyFallbackAndDropSaysMoreThanItsName() {
        for counter in Counter.allCases where counter.isDrop || counter.isFallback {
            #expect(counter.meaning.count > 40, "\(counter.name)")
        }
    }

    @Test func everyTuningFlagIsExplained() throws {
        let manual = try Self.text("docs/tuning.md")
        for flag in TuningFlags.flags {
            #expect(manual.contains("`--\(flag.name)`"), "docs/tuning.md lacks \(flag.name)")
        }
    }

    @Test func everyEventOfTheLogIsExplained() throws {
        let manual = try Self.text("docs/operations.md")
        #expect(EventName.allCases.count > 60)
        for event in EventName.allCases {
            #expect(manual.contains("`\(event)`"), "docs/operations.md lacks \(event)")
        }
    }

    /// A name is one word, and so is not quoted in the log.
    @Test func everyEventHasAPlainName() {
        for event in EventName.allCases {
            #expect(event.rawValue.allSatisfy { $0 == "_" || ("a"..."z").contains($0) }, "\(event)")
        }
    }

    /// Nothing logs a sentence in place of an event.
    @Test func everyCallNamesItsEvent() throws {
        let calls = #/\b(?:logger|log)\.(?:trace|debug|info|notice|warning|error|critical)\(\s*"/#
        for source in try Self.sources(below: "Sources") {
            for call in source.matches(of: calls) { Issue.record("\(source[call.range].suffix(80))") }
        }
    }

    /// A test that a document of promises names is one, by a function's or a suite's name; so is a command.
    @Test(arguments: ["docs/security.md", "SPECIFICATION.md"])
    func everyTestThatADocumentNamesExists(path: String) throws {
        let tests = try Self.sources(below: "Tests").joined()
        let rows = try Self.text(path).split(separator: "\n").filter { $0.hasPrefix("|") }
        var count = 0
        for row in rows {
            // The last column names them, in code.
            for name in (row.split(separator: "|").last ?? "").matches(of: #/`([^`]+)`/#).map(\.1) {
                count += 1
                let word = name.split(separator: " ").first.map(String.init) ?? ""
                if word.hasPrefix("tools/") {
                    #expect(FileManager.default.isExecutableFile(atPath: "\(Self.root)/\(word)"), "\(name)")
                } else if name.hasPrefix("drop_") {
                    #expect(Counter.allCases.contains { $0.name == name }, "\(name)")
                } else {
                    let test = name.split(separator: " ").last ?? ""
                    let isTest =
                        tests.contains("func \(test)(") || tests.contains("struct \(test):")
                        || tests.contains("struct \(test) ")
                        || FileManager.default.fileExists(atPath: "\(Self.root)/Tests/\(test)")
                    #expect(isTest, "\(path) names the test \(name)")
                }
            }
        }
        #expect(count > 20)
    }

    /// So is a suite that any document names, and a test of it: `WorldTests.StartTests`, `VerdictTests.silent`.
    @Test func everySuiteThatADocumentNamesExists() throws {
        let tests = try (Self.sources(below: "Tests") + Self.sources(below: "Benchmarks/Tests")).joined()
        let documents = try execute("cd \(Self.root) && ls *.md docs/*.md docs/adr/*.md").split(
            separator: "\n")
        var count = 0
        for path in documents {
            for match in try Self.text(String(path)).matches(of: #/`((?:\w+\.)?\w+Tests(?:\.\w+)?)`/#) {
                for name in match.1.split(separator: ".") {
                    count += 1
                    let isThere =
                        ["struct \(name) ", "struct \(name):", "class \(name) ", "func \(name)("].contains {
                            tests.contains($0)
                        } || FileManager.default.fileExists(atPath: "\(Self.root)/Tests/\(name)")
                    #expect(isThere, "\(path) names \(match.1)")
                }
            }
        }
        #expect(count > 100)
    }

    @Test func theUnitFileIsOne() throws {
        guard FileManager.default.isExecutableFile(atPath: "/usr/bin/systemd-analyze") else {
            #expect(
                !namespacesAreExpected || getenv("TWILL_CI") == nil, "systemd-analyze is missing: tools/setup"
            )
            return
        }
        let unit = try Self.text("packaging/twilld.service")
        let command = try #require(unit.firstMatch(of: #/(?m)^ExecStart=(\S+) (.*)$/#))
        #expect(command.1 == "/usr/bin/twilld")
        // The configuration that comes with it is one, as it is and with everything switched on that it offers.
        let sample = try Self.text("packaging/twilld.conf")
        for text in [sample, sample.replacing(#/(?m)^#([a-z-]+ = )/#, with: { $0.1 })] {
            let words = try CommandLineWords(
                command.2.split(separator: " ").map(String.init), environment: [:]
            ) { path throws(ExitFailure) in
                guard path == "/etc/twill/twilld.conf" else {
                    throw ExitFailure(.configuration, "no \(path)")
                }
                return text
            }
            #expect(try Twilld.parseAsRoot(words.words) is Run)
        }

        let directory = "/tmp/twill-test-unit-\(getpid())"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        // The program must be there for systemd to find nothing wrong.
        let built = unit.replacing("/usr/bin/twilld", with: RunningDaemon.binary)
        try Data(built.utf8).write(to: URL(filePath: directory + "/twilld.service"))
        let complaints = try execute("systemd-analyze verify --man=no \(directory)/twilld.service")
        #expect(complaints == "")
    }
}
