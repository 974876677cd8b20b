import Foundation
import Testing

@testable import twill_bench

@Suite("Reports")
struct ReportTests {
    private static func summary(rounds: Int) -> Summary {
        var noise = SeededNoise(seed: 21)
        var results = SyntheticRun.results(rounds: rounds, &noise, slowdown: 0.5)
        results.stolenShare = 0.03
        results.remarks = [
            "Something was not measured, which is worth a sentence that does not fit one line of eighty."
        ]
        return Summary(results: results, reference: "vxlan")
    }

    @Test("On the terminal nothing is wider than it", arguments: [60, 80, 120, 200])
    func width(_ width: Int) {
        let text = TerminalReport(summary: Self.summary(rounds: 3)).text(width: width)
        for line in text.split(separator: "\n") { #expect(line.count <= width, "\(line)") }
    }

    @Test("Warnings come first, then the figures, then what they mean and what they come to")
    func order() throws {
        let text = TerminalReport(summary: Self.summary(rounds: 3)).text(width: 100)
        let places = try ["! Something", "plain underlay", "▲ more is better", "In short, on plain"].map {
            try #require(text.firstRange(of: $0)).lowerBound
        }
        #expect(places == places.sorted())
        #expect(text.hasPrefix("! "))
        #expect(text.contains("crossings a node: how often"))
        #expect(text.contains("× is the ratio to vxlan"))
    }

    @Test("One round says nothing of a spread, and says so")
    func oneRound() {
        for text in [
            MarkdownReport(summary: Self.summary(rounds: 1)).text,
            HTMLReport(summary: Self.summary(rounds: 1)).text,
        ] {
            #expect(!text.contains("±"))
            #expect(!text.contains("["))
            #expect(text.contains("One round: how far chance moves a figure is not known."))
            #expect(text.contains("One round: chance may have made any of it."))
            #expect(!text.contains("1 interleaved rounds"))
        }
    }

    @Test("Rounds say what they span, and six and more a 95 % interval")
    func intervals() {
        let three = MarkdownReport(summary: Self.summary(rounds: 3)).text
        #expect(three.contains("what the rounds span, an interval of 75 % for the median"))
        #expect(three.contains("["))
        #expect(
            MarkdownReport(summary: Self.summary(rounds: 6)).text.contains("the 97 % interval of the median"))
    }

    @Test("A ratio has an interval of its own, which hours that move both leave alone")
    func intervalOfRatio() throws {
        var noise = SeededNoise(seed: 3)
        var results = SyntheticRun.results(rounds: 30, &noise)
        let metric = try #require(results.metrics.first { $0.name == "udp-64.delivered" })
        // Each hour is another, by a half up and down; twill is 0.4 % behind, and moves by 1 % beside that.
        results.samples = (1...30).flatMap { round in
            let hour = exp(0.5 * noise.normal())
            return [("vxlan", hour), ("twill", 0.996 * hour * exp(0.01 * noise.normal()))].map {
                Sample(
                    underlay: .plain, round: round, candidate: $0, metric: metric.name, value: 300 * $1)
            }
        }
        let summary = Summary(results: results, reference: "vxlan")
        let twill = try #require(results.candidates.first { $0.name == "twill" })
        let figure = try #require(summary.figure(metric, twill, .plain))
        let (own, ratio) = (try #require(figure.interval), try #require(figure.ratioInterval))
        #expect(ratio.low < 0.996 && 0.996 < ratio.high)
        #expect(ratio.high - ratio.low < 0.02)
        #expect((own.high - own.low) / figure.median > 0.2)
        #expect(
            MarkdownReport(summary: summary).text.contains("[\(ratio.low.asRatio), \(ratio.high.asRatio)]"))
    }

    @Test("In a report colour says what is better, and the axis where that is")
    func colours() {
        let text = HTMLReport(summary: Self.summary(rounds: 7)).text
        #expect(text.contains("<rect class=\"worse\""))
        #expect(text.contains("better →") && text.contains("← better"))
        #expect(text.contains("twill beside vxlan is"))
        #expect(text.firstRange(of: "class=\"key\"")!.lowerBound < text.firstRange(of: "<h2>")!.lowerBound)
    }

    @Test("A head says what wake-ups cost here")
    func head() {
        var summary = Self.summary(rounds: 3)
        var machine = summary.results.machine
        machine.kernelCommandLine = "quiet haltpoll.guest_halt_poll_ns=0"
        machine.idleDriver = "none"
        machine.haltPollNanoseconds = 0
        var results = summary.results
        results.machine = machine
        summary = Summary(results: results, reference: "vxlan")
        for text in [MarkdownReport(summary: summary).text, HTMLReport(summary: summary).text] {
            #expect(text.contains("Kernel command line: quiet haltpoll.guest_halt_poll_ns=0"))
            #expect(text.contains("Idle driver none"))
            #expect(text.contains("guest halt polling off"))
            #expect(text.contains("Time that the host took: 3.0 %"))
        }
    }

    @Test(
        "On a terminal warnings, what is worse and what is better have a colour each, with the lines they were folded into"
    )
    func colouredLines() {
        let text = Terminal.coloured("! loud\n  still loud\n\nplain\nWORSE  a  1\nbetter b  2\n  c  3")
        #expect(
            text == """
                \u{1B}[33m! loud\u{1B}[0m
                \u{1B}[33m  still loud\u{1B}[0m

                plain
                \u{1B}[31mWORSE  a  1\u{1B}[0m
                \u{1B}[32mbetter b  2\u{1B}[0m
                \u{1B}[32m  c  3\u{1B}[0m
                """)
        let report = TerminalReport(summary: Self.summary(rounds: 3)).text(width: 80)
        #expect(Terminal.coloured(report).replacing(#/\u{1B}\[[0-9]*m/#, with: "") == report)
    }

    @Test("A table is broken between columns, and its first column stands in each part")
    func folded() {
        let table = FoldedTable(
            headings: [["name", ""], ["one", "µs"], ["two", "s"], ["three", ""]],
            isText: [true, false, false, false],
            rows: [["a", "1", "22222", "3"], ["bb", "10", "2", "33"]])
        #expect(
            table.text(width: 80) == """
                name  one    two  three
                       µs      s
                ----  ---  -----  -----
                a       1  22222      3
                bb     10      2     33
                """)
        #expect(table.text(width: 17).components(separatedBy: "\n\n").count == 2)
        #expect(table.text(width: 17).hasSuffix("name  three\n----  -----\na         3\nbb       33"))
    }
}

@Suite("Halt polling")
struct HaltPollingTests {
    private let path =
        NSTemporaryDirectory() + "twill-bench-tests-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"

    @Test("It is set for as long as something runs, and set back whether or not that fails")
    func restored() throws {
        struct Failure: Error {}
        try Data("1234\n".utf8).write(to: URL(fileURLWithPath: path))
        defer { unlink(path) }
        let polling = HaltPolling(path: path)
        #expect(try polling.with(.off) { polling.nanoseconds } == 0)
        #expect(polling.nanoseconds == 1234)
        #expect(throws: Failure.self) {
            try polling.with(.default) {
                #expect(polling.nanoseconds == 200_000)
                throw Failure()
            }
        }
        #expect(polling.nanoseconds == 1234)
    }

    @Test("A machine without it is told so, and nothing is written")
    func absent() {
        let polling = HaltPolling(path: path)
        #expect(polling.nanoseconds == nil)
        #expect(throws: CommandError.self) { try polling.with(.off) {} }
        #expect(!FileManager.default.fileExists(atPath: path))
    }
}

@Suite("Multiple Loss Ratio search")
struct MLRSearchTests {
    @Test("A load is judged by three trials, of which one may be bad")
    func bounds() {
        let goal = MLRSearch.Goal.nonDrop
        #expect(MLRSearch.bound([], goal) == nil)
        #expect(MLRSearch.bound([0], goal) == nil)
        #expect(MLRSearch.bound([0, 0], goal) == .lower)
        #expect(MLRSearch.bound([0, 0.1], goal) == nil)
        #expect(MLRSearch.bound([0, 0.1, 0], goal) == .lower)
        #expect(MLRSearch.bound([0.1, 0.1], goal) == .upper)
    }

    @Test("Both rates are found for a path that loses from a rate on, and share their trials")
    func rates() {
        var search = MLRSearch()
        var trials = 0
        func rate(_ goal: MLRSearch.Goal) -> Double {
            search.conditionalThroughput(goal, maximumLoad: 1_000_000, minimumLoad: 1000) { load in
                trials += 1
                // Nothing is lost up to 300,000; half a percent is lost at 301,508.
                return max(0, 1 - 300_000 / load)
            }
        }
        let partial = rate(.partialDrop)
        let before = trials
        let none = rate(.nonDrop)
        #expect(none <= 300_000 && none > 290_000)
        #expect(partial >= none && partial < 302_000)
        #expect(before < 40 && trials - before < before)
    }

    @Test("A path that carries everything is at its maximum; one that carries nothing has no rate")
    func extremes() {
        var search = MLRSearch()
        #expect(search.conditionalThroughput(.nonDrop, maximumLoad: 5000, minimumLoad: 10) { _ in 0 } == 5000)
        search = MLRSearch()
        #expect(search.conditionalThroughput(.nonDrop, maximumLoad: 5000, minimumLoad: 10) { _ in 1 } == 0)
    }

    @Test("One trial that is disturbed does not move the rate")
    func disturbed() {
        var search = MLRSearch()
        var trials = 0
        let rate = search.conditionalThroughput(.nonDrop, maximumLoad: 1000, minimumLoad: 1) { load in
            trials += 1
            return trials == 1 ? 0.3 : 0
        }
        #expect(rate == 1000)
    }
}

@Suite("Profile")
struct ProfileTests {
    private static let text = """
        worker 0  100
            ffff1 _copy_to_iter ([kernel.kallsyms])
            ffff2 tun_do_read ([kernel.kallsyms])
            55d01 $s6Worker4loopyyF (/usr/bin/twilld)

        worker 0  100
            55d02 Worker.Coalescer.add(Swift.Int) -> () (/usr/bin/twilld)
            55d01 $s6Worker4loopyyF (/usr/bin/twilld)

        swapper     0
            ffff9 pv_native_safe_halt ([kernel.kallsyms])

        swift build  77
            55d03 main (/usr/bin/swift-build)

        iperf3  300
            ffff3 tcp_sendmsg ([kernel.kallsyms])

        """
    private static let samples = ProfileSample.parse(
        text, ProfileProcesses(sender: 100, receiver: 200, load: [300]))

    @Test("perf's samples are read: who, what, and in user space or not")
    func parse() {
        let samples = Self.samples
        #expect(samples.map(\.owner) == [.sender, .sender, .idle, .others, .load])
        #expect(samples.map(\.isUser) == [false, true, false, true, false])
        #expect(samples[0].stack == ["_copy_to_iter", "tun_do_read", "$s6Worker4loopyyF"])
        #expect(samples[1].stack.first == "Worker.Coalescer.add(Swift.Int) -> ()")
        #expect(samples[0].activity == "copies")
        #expect(samples[1].activity == "twilld itself (Swift, checksums)")
        #expect(samples[3].program == "swift build")
    }

    @Test("A profile says what a packet and a GB take, lists functions, and warns of others")
    func report() {
        let report = ProfileReport(
            title: "udp on plain", samples: Self.samples,
            transfer: ProfileTransfer(
                seconds: 2, packets: 2_000_000, bytes: 1e9, machineSeconds: 3, daemonSeconds: 1),
            processors: 2)
        let text = report.text(functions: 1)
        #expect(text.contains("4.00 Gbit/s and 1000 kpps"))
        #expect(text.contains("the machine: 1500 ns a packet, 3.00 s/GB; the two daemons: 500 ns, 1.00 s/GB"))
        #expect(text.contains("_copy_to_iter") != text.contains("Worker.Coalescer.add"))
        #expect(report.warnings.count == 1)
        #expect(report.warnings.first?.contains("swift build 20 %") == true)
    }

    @Test("A flame graph has every function of the stacks, and folds them for other programs")
    func flames() {
        let graph = FlameGraph(stacks: [(["main", "loop", "read<a>"], 3), (["main", "loop"], 1)])
        #expect(graph.folded == "main;loop 1\nmain;loop;read<a> 3\n")
        let picture = graph.svg(title: "t & t")
        #expect(picture.contains("<title>main: 4, 100.0 %</title>"))
        #expect(picture.contains("<title>read&lt;a&gt;: 3, 75.0 %</title>"))
        #expect(picture.contains("t &amp; t, 4 samples"))
        #expect(!picture.contains("<script"))
    }
}
