import Glibc

/// Whole pages of memory that somebody else has allocated and keeps for as long as this is used.
public struct MemoryPages: @unchecked Sendable {
    /// MADV_POPULATE_WRITE of asm-generic/mman-common.h, which Glibc's headers may lack.
    private static let populateForWriting: Int32 = 23
    private static let pageBytes = 4096

    private let bytes: UnsafeRawBufferPointer

    /// Those that lie wholly within some bytes.
    public init(_ bytes: UnsafeRawBufferPointer) {
        let start = Int(bitPattern: bytes.baseAddress)
        let skipped = (0 &- start) & (MemoryPages.pageBytes &- 1)
        let count = max(0, bytes.count - skipped) / MemoryPages.pageBytes * MemoryPages.pageBytes
        self.bytes =
            count > 0
            ? UnsafeRawBufferPointer(rebasing: bytes[skipped..<skipped + count]) : .init(start: nil, count: 0)
    }

    /// Lets the kernel give all pages that are not there yet, at once (Linux 5.14). What is in them stays as it is; they may
    /// be in use. The thread that touches a page first decides its NUMA node: a worker's own where it is pinned.
    public func touch() {
        guard let start = bytes.baseAddress else { return }
        _ = madvise(UnsafeMutableRawPointer(mutating: start), bytes.count, MemoryPages.populateForWriting)
    }
}
