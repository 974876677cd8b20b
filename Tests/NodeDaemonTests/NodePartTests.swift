import Synchronization
import Testing

@testable import NodeDaemon

private struct Broken: Error {}

@Suite struct NodePartTests {
    /// What happened, in order.
    private final class Record: Sendable {
        private let kept = Mutex<[String]>([])
        var all: [String] { kept.withLock { $0 } }
        func add(_ text: String) { kept.withLock { $0.append(text) } }
    }

    private let record = Record()
    /// So long that no machine, however busy, has parts that are cancelled before it is their turn to stop.
    private let patience = Duration.seconds(3600)

    private func ending() -> NodeEnding {
        NodeEnding { [record] result in
            switch result {
            case .success: record.add("ends")
            case .failure(let error): record.add("ends by \(error)")
            }
        }
    }

    /// A part that waits to be cancelled.
    private func part(_ name: String, _ ending: NodeEnding) -> NodePart {
        NodePart(
            description: name, ending: ending,
            body: { [record] in
                try? await Task.sleep(for: .seconds(3600))
                record.add("\(name) cancelled")
            },
            stop: { [record] in record.add("\(name) stops") })
    }

    @Test func theFirstPartToEndEndsTheOthersTheLastOneFirst() async throws {
        let ending = ending()
        await NodeProcess.run(
            [
                part("first", ending), part("second", ending),
                NodePart(description: "third", ending: ending, body: {}),
            ], gracefulStopLimit: patience)
        #expect(
            record.all == ["ends", "second stops", "second cancelled", "first stops", "first cancelled"])
        try ending.result?.get()
    }

    @Test func aPartThatFailsIsWhatEndedTheNode() async {
        let ending = ending()
        await NodeProcess.run(
            [
                part("first", ending),
                NodePart(
                    description: "second", ending: ending, body: { throw Broken() },
                    stop: { [record] in record.add("second stops") }),
                // What fails only because it is stopped is not.
                NodePart(
                    description: "third", ending: ending,
                    body: { try await Task.sleep(for: .seconds(3600)) }),
            ], gracefulStopLimit: patience)
        #expect(record.all == ["ends by Broken()", "second stops", "first stops", "first cancelled"])
        #expect(throws: Broken.self) { try ending.result?.get() }
    }

    @Test func aNodeThatIsCancelledEndsAsOneThatIsToldTo() async throws {
        let ending = ending()
        let running = Task { await NodeProcess.run([part("first", ending), part("second", ending)]) }
        running.cancel()
        await running.value
        #expect(record.all.filter { $0 == "ends" }.count == 1)
        #expect(
            Set(record.all) == ["ends", "first stops", "second stops", "first cancelled", "second cancelled"])
        try ending.result?.get()
    }

    /// A part that does not stop (a store that hangs) holds up the one before it for so long and no longer.
    @Test func aPartThatHangsDoesNotKeepTheOthersFromStopping() async {
        let ending = ending()
        let (hanging, release) = AsyncStream<Void>.makeStream()
        let running = Task {
            await NodeProcess.run([
                part("first", ending),
                NodePart(
                    description: "hangs", ending: ending,
                    body: { await Task { for await _ in hanging {} }.value }),
                NodePart(description: "third", ending: ending, body: {}),
            ])
        }
        while !record.all.contains("first cancelled") { await Task.yield() }
        release.finish()
        await running.value
        #expect(record.all.first == "ends")
        #expect(Set(record.all) == ["ends", "first stops", "first cancelled"])
    }
}
