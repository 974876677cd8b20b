import Health
import Testing

@Suite struct NodeHealthTests {
    private let cutOff = Problem(.cutOff, "interface eth0 is gone", remedy: "bring it back")
    private let degraded = Problem(.degraded, "the path is narrow", remedy: "look at the routers")

    @Test func theWorstComesFirstAndOnlyWhatCutsOffCountsAsSuch() {
        let health = NodeHealth()
        health.set(Component(.subnetFile), nil)
        health.set(Component(.path, "10.1.2.0/24"), degraded)
        #expect(!health.isCutOff)
        health.set(Component(.underlay), cutOff)
        #expect(health.isCutOff)
        #expect(health.all.map(\.component.description) == ["underlay", "path 10.1.2.0/24", "subnet-file"])
        #expect(
            health.problems.map(\.sentence) == [
                "interface eth0 is gone; bring it back", "the path is narrow; look at the routers",
            ])
        health.set(Component(.underlay), nil)
        #expect(!health.isCutOff)
        #expect(health.problem(of: Component(.underlay)) == nil)
    }

    @Test func aKindIsReplacedAsAWhole() {
        let health = NodeHealth()
        health.replace(.path, with: ["a": degraded, "b": degraded])
        health.replace(.path, with: ["b": degraded])
        #expect(health.all.map(\.component) == [Component(.path, "b")])
        health.replace(.path, with: [:])
        #expect(health.all.isEmpty)
    }

    @Test func theSameConditionKeepsItsBeginning() throws {
        let health = NodeHealth()
        health.set(Component(.clock), degraded)
        let since = try #require(health.all.first).since
        health.set(Component(.clock), Problem(.degraded, "the path is narrower", remedy: "look"))
        #expect(health.all.first?.since == since)
        #expect(health.problems.first?.cause == "the path is narrower")
        health.set(Component(.clock), nil)
        #expect(try #require(health.all.first).since > since)
    }

    @Test func nothingFromOutsideSteersATerminal() {
        let problem = Problem(.degraded, "key \u{1B}[2J\n\u{202E}x", remedy: "")
        #expect(problem.sentence == #"key \u{1b}[2J\u{a}\u{202e}x"#)
    }
}
