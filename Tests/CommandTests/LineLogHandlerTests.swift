import Glibc
import Logging
import Synchronization
import Testing

@testable import twilld

/// Takes the lines of a logger.
private final class Lines: Sendable {
    private let lines = Mutex<[String]>([])
    var all: [String] { lines.withLock { $0 } }

    func logger(level: Logger.Level = .info) -> Logger {
        var logger = Logger(label: "test") { _ in
            LineLogHandler(
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
            "a lease",
            metadata: ["subnet": "10.66.28.0/24", "event": "lease_acquired", "expires": "never", "a": "1 2"])
        #expect(
            lines.all == [
                "2026-11-23T01:40:12.007Z notice event=lease_acquired a=\"1 2\" expires=never "
                    + "subnet=10.66.28.0/24 message=\"a lease\""
            ])
    }

    @Test func nothingBreaksTheLine() {
        let lines = Lines()
        lines.logger().error("first\nsecond \"quoted\"", metadata: ["key": "a=b\\", "empty": "", "bell": "\u{7}"])
        #expect(
            lines.all == [
                #"2026-11-23T01:40:12.007Z error bell="\u{7}" empty="" key="a=b\\" message="first\nsecond \"quoted\"""#
            ])
    }

    @Test func aLoggersOwnFieldsAreOnEveryLineAndGiveWay() {
        let lines = Lines()
        var logger = lines.logger()
        logger[metadataKey: "node"] = "a"
        logger.info("", metadata: ["event": "one"])
        logger.info("", metadata: ["event": "two", "node": "b"])
        #expect(
            lines.all == [
                "2026-11-23T01:40:12.007Z info event=one node=a", "2026-11-23T01:40:12.007Z info event=two node=b",
            ])
    }

    @Test(arguments: [(-1, Logger.Level.info), (0, .info), (1, .debug), (2, .debug), (3, .trace), (10, .trace)])
    func verbosity(number: Int, level: Logger.Level) {
        #expect(LineLogHandler.level(verbosity: number) == level)
    }
}
