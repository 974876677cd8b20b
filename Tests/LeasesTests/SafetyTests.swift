import Glibc
import LeaseTesting
import Testing

@Suite("Whatever a store does, step by step")
struct SafetyTests {
    /// Each seed is one unit of a run. `twill-lease-simulation --seed N --nodes N --hours N --print` tells its story.
    @Test(
        "no subnet has two owners, no lease is lost while its node lives, no peer that works is removed, and all is well in the end",
        arguments: 1...12 as ClosedRange<UInt64>)
    func safety(seed: UInt64) {
        let nodes = 3 + Int(seed % 4)
        let outcome = LeaseScenario(seed: seed, nodeCount: nodes, hours: 170).run()
        #expect(
            outcome.violations == [],
            "repeat it: swift run twill-lease-simulation --seed \(seed) --nodes \(nodes) --hours 170 --print")
        #expect(outcome.steps > 2_000)
    }

    /// A soak of real daemons takes half an hour for as much. `twill-lease-simulation --deck soak --seed N --print`
    /// tells its story.
    @Test("what a soak does to real daemons heals, step by step", arguments: 1...4 as ClosedRange<UInt64>)
    func soak(seed: UInt64) {
        let nodes = 3 + Int(seed % 3)
        let outcome = SoakReplay(seed: seed, nodeCount: nodes, cards: 84).run()
        #expect(
            outcome.violations == [],
            "repeat it: swift run twill-lease-simulation --deck soak --seed \(seed) --nodes \(nodes) --events 84 --print"
        )
        #expect(outcome.cards == 84 && outcome.steps > 500)
    }

    /// Twenty minutes after the last change: `AgreementScenario.time`.
    @Test("whatever a watch does, all nodes agree within a time", arguments: WatchFault.allCases)
    func agreement(fault: WatchFault) {
        let outcome = AgreementScenario(seed: 31, nodeCount: 4, hours: 60, fault: fault).run()
        #expect(
            outcome.violations == [],
            "repeat it: swift run twill-lease-simulation --deck agreement --fault \(fault.rawValue) --seed 31 --nodes 4 --hours 60 --print"
        )
        #expect(outcome.rounds > 50)
    }

    @Test(
        "all faults of a store together, and all nodes agree within a time",
        arguments: 1...4 as ClosedRange<UInt64>)
    func agreement(seed: UInt64) {
        let outcome = AgreementScenario(seed: seed, nodeCount: 5, hours: 60).run()
        #expect(
            outcome.violations == [],
            "repeat it: swift run twill-lease-simulation --deck agreement --seed \(seed) --nodes 5 --hours 60 --print"
        )
    }

    @Test("a seed gives the same story to the byte, in whatever process") func reproducible() throws {
        for deck in ["hours", "agreement", "soak"] {
            let stories = try (0..<2).map { _ in try story(seed: 77, deck: deck) }
            #expect(stories[0].contains("digest"))
            #expect(stories[0] == stories[1])
            #expect(try story(seed: 78, deck: deck) != stories[0])
        }
    }

    /// What the program says of a seed. Dictionaries and sets have another order in each process.
    private func story(seed: Int, deck: String) throws -> String {
        var path = [CChar](repeating: 0, count: 4_096)
        let length = readlink("/proc/self/exe", &path, path.count - 1)
        let tests = String(decoding: path.prefix(max(0, length)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let folder = tests[..<(tests.lastIndex(of: "/") ?? tests.startIndex)]
        let program = try #require(
            popen(
                "\(folder)/twill-lease-simulation --deck \(deck) --seed \(seed) --nodes 5 --hours 40 --events 56 --print 2>&1",
                "r"))
        defer { pclose(program) }
        var text = ""
        while let line = readLine(from: program) { text += line }
        return text
    }

    private func readLine(from file: UnsafeMutablePointer<FILE>) -> String? {
        var bytes = [CChar](repeating: 0, count: 4_096)
        guard fgets(&bytes, Int32(bytes.count), file) != nil else { return nil }
        return String(decoding: bytes.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
