import Glibc
import Logging
import Testing

@testable import NodeDaemon

@Suite struct LogLineHeadTests {
    /// Device and inode of a descriptor, as systemd writes them.
    private func stream(of descriptor: Int32) -> String {
        var status = stat()
        #expect(fstat(descriptor, &status) == 0)
        return "\(status.st_dev):\(status.st_ino)"
    }

    @Test func journaldGetsPrioritiesWhereTheDescriptorIsItsStream() {
        var ends: [Int32] = [-1, -1]
        #expect(pipe(&ends) == 0)
        var others: [Int32] = [-1, -1]
        #expect(pipe(&others) == 0)
        defer { for descriptor in ends + others { close(descriptor) } }

        #expect(LogLineHead(descriptor: ends[1], journalStream: stream(of: ends[1])) == .priority)
        // Inherited from a parent whose standard error was the journal; this one's is another.
        #expect(LogLineHead(descriptor: ends[1], journalStream: stream(of: others[1])) == .time)
        #expect(LogLineHead(descriptor: ends[1], journalStream: nil) == .time)
        #expect(LogLineHead(descriptor: ends[1], journalStream: "") == .time)
        #expect(LogLineHead(descriptor: -1, journalStream: "0:0") == .time)
    }

    @Test(arguments: [
        (Logger.Level.critical, "<2>critical"), (.error, "<3>error"), (.warning, "<4>warning"),
        (.notice, "<5>notice"), (.info, "<6>info"), (.debug, "<7>debug"), (.trace, "<7>trace"),
    ])
    func prioritiesAreSyslogs(level: Logger.Level, text: String) {
        #expect(LogLineHead.priority.text(level) == text)
        #expect(LogLineHead.time.text(level, now: { timespec() }) == "1970-01-01T00:00:00.000Z \(level)")
        #expect(LogLineHead.time.mark(level) == "")
    }

    @Test func aLineToTheJournalHasNoTimeOfItsOwn() {
        let lines = Lines()
        lines.logger(head: .priority).warning(.problem, metadata: ["component": "store"])
        #expect(lines.all == ["<4>warning event=problem component=store"])
    }
}
