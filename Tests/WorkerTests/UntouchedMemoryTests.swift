import Engines
import Glibc
import Testing

@testable import Worker

/// The pages of packet memory that a worker began without.
struct UntouchedMemoryTests {
    private static let pageBytes = 4096

    /// How many of the tunnel buffers' pages are there (mincore(2)).
    private func presentPages(_ memory: PacketMemory) -> Int {
        var pages = [UInt8](repeating: 0, count: pageCount(memory))
        #expect(mincore(memory.tunnelBuffers, pages.count * Self.pageBytes, &pages) == 0)
        return pages.count { $0 & 1 == 1 }
    }

    private func pageCount(_ memory: PacketMemory) -> Int {
        memory.tunnelBufferCount * PacketMemory.tunnelBufferStride / Self.pageBytes
    }

    @Test func pagesComeWhereTheWorkerStillLives() throws {
        let memory = try #require(
            PacketMemory(
                tunnelBufferCount: 4, datagramBufferCount: 2, messageCount: 4, hugePages: false,
                isTouched: false))
        defer { memory.deallocate() }
        let untouched = UntouchedMemory()
        untouched.note([memory.pages], of: 1)
        untouched.forget(1)
        untouched.touch()
        #expect(presentPages(memory) == 0)

        untouched.note([memory.pages], of: 1)
        untouched.touch()
        #expect(presentPages(memory) == pageCount(memory))
    }

    /// What lies beside them may be another's.
    @Test func pagesAreThoseThatLieWhollyWithin() throws {
        let base = try #require(
            mmap(nil, 4 * Self.pageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
        defer { munmap(base, 4 * Self.pageBytes) }
        MemoryPages(UnsafeRawBufferPointer(start: base + 1, count: 3 * Self.pageBytes + 10)).touch()
        MemoryPages(UnsafeRawBufferPointer(start: base + 1, count: Self.pageBytes)).touch()
        var present = [UInt8](repeating: 0, count: 4)
        #expect(mincore(base, 4 * Self.pageBytes, &present) == 0)
        #expect(present.map { $0 & 1 } == [0, 1, 1, 0])
    }

    @Test func whoWaitsForNoPacketsHasAllOfThem() throws {
        let memory = try #require(
            PacketMemory(tunnelBufferCount: 4, datagramBufferCount: 2, messageCount: 4, hugePages: false))
        defer { memory.deallocate() }
        #expect(presentPages(memory) == pageCount(memory))
    }
}
