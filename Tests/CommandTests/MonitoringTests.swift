import Counters
import FoundationEssentials
import Glibc
import NetworkNamespaces
import Telemetry
import Testing

@testable import NodeDaemon

/// `packaging/monitoring`: alerts, dashboard and scrape configuration, held against what the daemon tells.
@Suite struct MonitoringTests {
    private static let folder =
        String(#filePath.dropLast("/Tests/CommandTests/MonitoringTests.swift".count))
        + "/packaging/monitoring"

    private static func text(_ name: String) throws -> String {
        try String(contentsOfFile: "\(folder)/\(name)", encoding: .utf8)
    }

    /// Runs promtool on files of a folder; gives what it said where it is not content.
    private static func complaints(_ words: String, in folder: String) throws -> String? {
        let output = try execute("cd \(folder) && promtool \(words) 2>&1 || echo failed")
        return output.hasSuffix("failed\n") ? output : nil
    }

    private static let hasPromtool: Bool = {
        let isThere = ["/usr/bin/promtool", "/usr/local/bin/promtool"].contains(
            where: FileManager.default.isExecutableFile(atPath:))
        return isThere || (namespacesAreExpected && getenv("TWILL_CI") != nil)
    }()

    @Test(.enabled(if: hasPromtool)) func theRulesAreRulesAndEachFires() throws {
        #expect(try Self.complaints("check rules alerts.yml", in: Self.folder) == nil)
        #expect(try Self.complaints("test rules alerts.test.yml", in: Self.folder) == nil)
        #expect(try Self.complaints("check config --syntax-only scrape.yml", in: Self.folder) == nil)
        // None is left out of the test.
        let tested = try Self.text("alerts.test.yml")
        let names = try Self.text("alerts.yml").matches(of: #/alert: (\w+)/#).map { String($0.1) }
        #expect(names.count >= 12)
        for name in names { #expect(tested.contains("\"\(name)\""), "alerts.test.yml lacks \(name)") }
    }

    @Test func dashboardIsJSON() throws {
        let dashboard = try JSONDecoder().decode(
            Dashboard.self, from: Data(try Self.text("dashboard.json").utf8))
        #expect(dashboard.panels.count >= 12)
        for panel in dashboard.panels { #expect(!panel.targets.isEmpty, "\(panel.title)") }
    }

    private struct Dashboard: Decodable {
        struct Panel: Decodable {
            struct Target: Decodable { let expr: String }
            let title: String
            let targets: [Target]
        }
        let panels: [Panel]
    }

    /// A real node that has a peer and nothing to do: what it tells, and goes on telling for forty minutes, raises nothing; and
    /// whatever the files name is among it.
    @Test(.enabled(if: hasPromtool && namespacesAreExpected)) func aHealthyIdleNodeRaisesNothing()
        async throws
    {
        let machine = try await TestMachine()
        try machine.write(
            "store/subnets/10.66.200.0-24",
            #"{"PublicIP":"198.18.78.2","PublicIPv6":null,"BackendType":"udp"}"#)
        let daemon = try await machine.start()
        let status = try await daemon.until("the peer") {
            daemon.status.flatMap { $0.isReady && $0.peers.count == 1 ? $0 : nil }
        }
        #expect(status.problems == [])
        func scrape() async throws -> String {
            try await machine.run(
                "curl -s --unix-socket \(machine.directory)/twilld.sock http://twilld/metrics")
        }
        let earlier = try await scrape()
        try await Task.sleep(for: .seconds(2))
        let later = try await scrape()

        let told = Set(later.matches(of: #/(?m)^# TYPE (\S+)/#).map { String($0.1) })
        for file in ["alerts.yml", "dashboard.json", "scrape.yml"] {
            for match in try Self.text(file).matches(of: #/\b(?:twill|process)_[a-z0-9_]*[a-z0-9]/#) {
                let name = String(match.0)
                let family = name.replacing(#/_(?:bucket|sum|count)$/#, with: "")
                let isThere = told.contains(name) || told.contains(family)
                // Told only of a peer that was heard.
                #expect(
                    isThere || name == "twill_peer_last_received_timestamp_seconds", "\(file) names \(name)")
            }
        }

        try machine.write("alerts.yml", try Self.text("alerts.yml"))
        try machine.write("healthy.yml", Self.ruleTest(earlier, later))
        #expect(try Self.complaints("test rules healthy.yml", in: machine.directory) == nil)
        // The same of a node that is not ready is not silent, so that the test can fail.
        try machine.write(
            "ill.yml", Self.ruleTest(earlier, later.replacing("twill_ready 1\n", with: "twill_ready 0\n")))
        #expect(try Self.complaints("test rules ill.yml", in: machine.directory) != nil)
    }

    /// A test for promtool in which everything stays as two scrapes show it: levels as they are, counters growing as between
    /// the two.
    private static func ruleTest(_ earlier: String, _ later: String) -> String {
        func values(_ text: String) -> [(name: String, value: Double)] {
            text.split(separator: "\n").filter { !$0.hasPrefix("#") }.compactMap { line in
                guard let space = line.lastIndex(of: " "),
                    let value = Double(line[line.index(after: space)...])
                else { return nil }
                return (String(line[..<space]), value)
            }
        }
        let before = Dictionary(values(earlier).map { ($0.name, $0.value) }) { first, _ in first }
        var test =
            "rule_files: [alerts.yml]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n"
        for (name, value) in values(later) + [("up", 1)] {
            let isCounter = name.contains(#/_(?:total|bucket|sum|count)(?:\{|$)/#)
            let growth = isCounter ? (value - (before[name] ?? value)) * 30 : 0
            let labels = #"job="twill",instance="n"}"#
            let series = name.hasSuffix("}") ? name.dropLast() + "," + labels : name + "{" + labels
            test += "      - series: '\(series)'\n        values: '\(value)+\(growth)x45'\n"
        }
        test += "    promql_expr_test:\n"
        for minute in [5, 20, 40] {
            test += "      - {expr: ALERTS, eval_time: \(minute)m, exp_samples: []}\n"
        }
        return test
    }
}
