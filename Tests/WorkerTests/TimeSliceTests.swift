import FoundationEssentials
import Glibc
import Testing

@testable import Worker

/// Packet threads have short turns on their CPUs while packets wait for them, and the kernel's own after that. Where the kernel has
/// one for all (before Linux 6.12) there is nothing to see.
@Suite(
    .enabled(if: kernelHasSlices && ownSlice != nil, "needs Linux 6.12, and that it tells a thread's slice"))
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

/// Whether each thread has a slice of its own (EEVDF, Linux 6.12); 6.6 to 6.11 tell of one that nobody can set.
private let kernelHasSlices: Bool = {
    let release = (try? String(contentsOfFile: "/proc/sys/kernel/osrelease", encoding: .utf8)) ?? ""
    let numbers = release.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
    return numbers.count == 2 && (numbers[0], numbers[1]) >= (6, 12)
}()
