import Glibc
import Health
import Synchronization
import Testing

@testable import NodeDaemon

/// A pipe whose reader takes nothing unless told to.
private final class Pipe {
    let reading: Int32
    let writing: Int32

    init() {
        var ends: [Int32] = [-1, -1]
        #expect(pipe(&ends) == 0)
        (reading, writing) = (ends[0], ends[1])
        // F_SETPIPE_SZ: the least there is.
        _ = fcntl(writing, 1031, 4096)
    }

    deinit { close(writing) }

    /// Reads until `end` has come; gives everything.
    func read(until end: String) -> String {
        var text = ""
        var buffer = [UInt8](repeating: 0, count: 4096)
        while !text.contains(end) {
            let count = Glibc.read(reading, &buffer, buffer.count)
            guard count > 0 else { break }
            text += String(decoding: buffer[..<count], as: UTF8.self)
        }
        return text
    }
}

@Suite struct LogWriterTests {
    /// A time by which every stall is a problem.
    private var later: SuspendingClock.Instant { .now + .seconds(60) }

    @Test func linesComeInOrder() {
        let pipe = Pipe()
        let writer = LogWriter(descriptor: pipe.writing)
        for number in 0..<50 { writer.write("line \(number)") }
        let text = pipe.read(until: "line 49\n")
        #expect(text == (0..<50).map { "line \($0)\n" }.joined())
        #expect(writer.flush(milliseconds: 5000))
        #expect(writer.problem(now: later) == nil)
        close(pipe.reading)
    }

    /// Nobody waits for a reader that takes nothing; what is lost is counted, and told at its place once
    /// lines pass again.
    @Test(arguments: [
        LogWriter.Limits(lines: 100, bytes: 1 << 20), LogWriter.Limits(lines: 1_000_000, bytes: 10_000),
    ])
    func aStalledReaderHoldsUpNobody(limits: LogWriter.Limits) {
        let pipe = Pipe()
        let writer = LogWriter(descriptor: pipe.writing, limits: limits)
        for number in 0..<2000 { writer.write("line \(number) \(String(repeating: "x", count: 100))") }
        #expect(!writer.flush(milliseconds: 20))
        let lost = writer.lostLines
        #expect(lost > 1000 && lost < 2000)
        let problem = writer.problem(now: later)
        #expect(problem?.effect == .degraded)
        #expect(problem?.cause.contains("lost so far: \(lost)") == true)

        let text = pipe.read(until: "log_lines_lost")
        #expect(text.hasPrefix("line 0 ") && text.contains("\nline 30 "))
        #expect(writer.flush(milliseconds: 5000))
        #expect(
            text.split(separator: "\n").last?.contains("warning event=log_lines_lost lines=\(lost)") == true)
        #expect(writer.problem(now: later) == nil)
        writer.write("after")
        #expect(pipe.read(until: "after\n").hasSuffix("after\n"))
        close(pipe.reading)
    }

    @Test func aFullDeviceIsSaidWithTheKernelsWords() {
        let descriptor = open("/dev/full", O_WRONLY)
        defer { close(descriptor) }
        let writer = LogWriter(descriptor: descriptor)
        for _ in 0..<3 { writer.write("line") }
        #expect(writer.flush(milliseconds: 5000))
        #expect(writer.lostLines == 3)
        #expect(
            writer.problem(now: .now)?.cause.contains("No space left on device; lines lost so far: 3") == true
        )
    }

    @Test func aClosedDescriptorIsSaid() {
        let writer = LogWriter(descriptor: 1_000_000)
        writer.write("line")
        #expect(writer.flush(milliseconds: 5000))
        #expect(writer.problem(now: .now)?.cause.contains("Bad file descriptor") == true)
    }

    /// Another program that has the same terminal may have made it non-blocking: a full one is waited for all
    /// the same.
    @Test func aNonBlockingDescriptorLosesNothing() {
        let pipe = Pipe()
        _ = fcntl(pipe.writing, F_SETFL, O_NONBLOCK)
        let writer = LogWriter(descriptor: pipe.writing)
        for number in 0..<500 { writer.write("line \(number)") }
        let text = pipe.read(until: "line 499\n")
        #expect(text.split(separator: "\n").count == 500)
        #expect(writer.lostLines == 0)
        close(pipe.reading)
    }
}
