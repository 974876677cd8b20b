import Glibc
import Testing

@testable import Host

@Suite struct ChildProcessTests {
    private func program(_ name: String) throws -> ChildProcess { try #require(ChildProcess(name)) }

    @Test func theExitStatusAndBothTextsAreGiven() throws {
        let result = try program("sh").run(["-c", "echo out; echo err >&2; exit 7"])
        #expect(result.status == 7 && result.output == "out\n" && result.errors == "err\n")
        #expect(try program("sh").run(["-c", "kill -9 $$"]).status == 137)
    }

    /// More than a socket's buffer holds, both ways: whoever writes all of it before reading waits for ever.
    @Test func largeInputAndOutputDoNotWaitForEachOther() throws {
        let input = String(repeating: "0123456789abcdef", count: 100_000)
        #expect(try program("cat").run([], input: input).output == input)
    }

    @Test func inputThatNobodyReadsIsLost() throws {
        let input = String(repeating: "x", count: 1_000_000)
        #expect(try program("true").run([], input: input).status == 0)
    }

    @Test func aProgramThatPrintsWithoutEndIsEnded() throws {
        let error = #expect(throws: ChildProcessError.self) {
            try program("yes").run([], outputLimit: 1 << 20)
        }
        #expect(error?.kind == .outputTooLarge)
        #expect(error?.description.hasSuffix("printed more than 1 MiB") == true)
    }

    /// A program that hangs costs its caller one timeout, not one for each call.
    @Test func aProgramThatHangsIsKilledAndLeftAloneForAWhile() throws {
        let sleep = try program("sleep")
        let first = #expect(throws: ChildProcessError.self) {
            try sleep.run(["600"], timeoutMilliseconds: 1000)
        }
        #expect(first?.kind == .hung && first?.description.contains("did not end within 1 s") == true)
        let second = #expect(throws: ChildProcessError.self) { try sleep.run(["0"]) }
        #expect(second?.kind == .hung && second?.description.contains("not started again for 60 s") == true)
        #expect(try program("true").run([]).status == 0)
    }

    /// The daemon ignores SIGPIPE and blocks what it waits for; its children must not.
    @Test func childrenHaveTheSignalsOfANewProcess() throws {
        let lines = try program("grep").run(["^Sig\\(Blk\\|Ign\\)", "/proc/self/status"]).output
        let masks = lines.split(separator: "\n").compactMap {
            $0.split(separator: "\t").last.flatMap { UInt64($0, radix: 16) }
        }
        try #require(masks.count == 2)
        #expect(masks[0] == 0 && masks[1] & (1 << UInt64(SIGPIPE - 1)) == 0)
    }

    @Test func whoHoldsALockIsFound() throws {
        let path = "/tmp/node-lock-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
        // A child that another test starts must not have the lock too.
        let descriptor = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        defer { unlink(path) }
        #expect(LockHolder.name(ofLock: path) == nil)
        #expect(flock(descriptor, LOCK_EX | LOCK_NB) == 0)
        #expect(LockHolder.name(ofLock: path)?.hasSuffix("(process \(getpid()))") == true)
        close(descriptor)
        #expect(LockHolder.name(ofLock: path) == nil)
    }
}
