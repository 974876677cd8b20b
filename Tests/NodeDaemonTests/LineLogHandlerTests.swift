import Glibc
import Logging
import Synchronization
import Testing

@testable import NodeDaemon

/// Takes the lines of a logger.
final class Lines: Sendable {
    private let lines = Mutex<[String]>([])
    var all: [String] { lines.withLock { $0 } }

    func logger(level: Logger.Level = .info, head: LogLineHead = .time) -> Logger {
        var logger = Logger(label: "test") { _ in
            LineLogHandler(
                head: head,
                write: { line in self.lines.withLock { $0.append(line) } },
                now: { timespec(tv_sec: 1_795_398_012, tv_nsec: 7_999_999) })
        }
        logger.logLevel = level
        return logger
    }
}

@Suite struct LineLogHandlerTests {
    @Test func oneLineAnEventInAFixedOrder() {
        let lines = Lines()
        lines.logger().notice(
            .leaseAcquired, metadata: ["subnet": "10.66.28.0/24", "expires": "never", "a": "1 2"])
        #expect(
            lines.all == [
                "2026-11-23T01:40:12.007Z notice event=lease_acquired a=\"1 2\" expires=never "
                    + "subnet=10.66.28.0/24"
            ])
    }

    @Test func nothingBreaksTheLine() {
        let lines = Lines()
        lines.logger().error(
            "first\nsecond \"quoted\"",
            metadata: ["key": "a=b\\", "empty": "", "bell": "\u{7}", "text": "x\ny \"z\""])
        lines.logger().error("")
        #expect(
            lines.all == [
                #"2026-11-23T01:40:12.007Z error event="first\nsecond \"quoted\"" bell="\u{7}" empty="" key="a=b\\" text="x\ny \"z\"""#,
                "2026-11-23T01:40:12.007Z error event=\"\"",
            ])
    }

    @Test func aLoggersOwnFieldsAreOnEveryLineAndGiveWay() {
        let lines = Lines()
        var logger = lines.logger()
        logger[metadataKey: "node"] = "a"
        logger.info("one")
        logger.info("two", metadata: ["node": "b"])
        #expect(
            lines.all == [
                "2026-11-23T01:40:12.007Z info event=one node=a",
                "2026-11-23T01:40:12.007Z info event=two node=b",
            ])
    }
}
