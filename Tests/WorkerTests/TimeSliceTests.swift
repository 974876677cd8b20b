import FoundationEssentials
import Glibc
import Testing

@testable import Worker

/// Packet threads have short turns on their CPUs while packets wait for them, and the kernel's own after that. Where the kernel has
/// one for all (before Linux 6.12) there is nothing to see.
@Suite(.enabled(if: ownSlice != nil, "needs a kernel that tells a thread's slice"))
struct TimeSliceTests {
    /// All in one test, on its one thread.
    @Test func theyAreShortForTwoLooksAndWhoHasLeftIsLeftAlone() throws {
        let usual = try #require(ownSlice)
        let slices = TimeSlices()
        slices.enter(0)
        #expect(ownSlice == 100_000)
        slices.look()
        #expect(ownSlice == 100_000)
        slices.look()
        #expect(ownSlice == usual)
        slices.look()
        #expect(ownSlice == usual)
        slices.shorten()
        #expect(ownSlice == 100_000)
        // What is asked for meanwhile counts from then on.
        slices.look()
        slices.shorten()
        slices.look()
        #expect(ownSlice == 100_000)
        slices.look()
        #expect(ownSlice == usual)
        slices.leave(0)
        slices.shorten()
        #expect(ownSlice == usual)
    }
}

/// The calling thread's, in nanoseconds, as /proc has it.
private var ownSlice: Int? {
    let text = try? String(contentsOfFile: "/proc/thread-self/sched", encoding: .utf8)
    let line = text?.split(separator: "\n").first { $0.hasPrefix("se.slice") }
    return line?.split(separator: " ").last.flatMap { Int($0) }
}
