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
        untouched.note(memory, of: 1)
        untouched.forget(1)
        untouched.touch()
        #expect(presentPages(memory) == 0)

        untouched.note(memory, of: 1)
        untouched.touch()
        #expect(presentPages(memory) == pageCount(memory))
    }

    @Test func whoWaitsForNoPacketsHasAllOfThem() throws {
        let memory = try #require(
            PacketMemory(tunnelBufferCount: 4, datagramBufferCount: 2, messageCount: 4, hugePages: false))
        defer { memory.deallocate() }
        #expect(presentPages(memory) == pageCount(memory))
    }
}
