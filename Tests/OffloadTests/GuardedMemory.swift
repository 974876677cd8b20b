import CLinux

/// Memory between two pages that fault, so that a byte read or written outside of it ends the test process.
final class GuardedMemory {
    private let mapping: UnsafeMutableRawPointer
    private let mappingCount: Int
    private let end: UnsafeMutableRawPointer
    let capacity: Int

    init(capacity: Int) {
        let page = 4096
        let inner = (capacity + page - 1) / page * page
        mappingCount = inner + 2 * page
        mapping = mmap(nil, mappingCount, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        precondition(mapping != UnsafeMutableRawPointer(bitPattern: -1), "mmap")
        precondition(mprotect(mapping + page, inner, PROT_READ | PROT_WRITE) == 0, "mprotect")
        end = mapping + page + inner
        self.capacity = inner
    }

    deinit { munmap(mapping, mappingCount) }

    /// The first byte of `count`, of which the last one is the last before the page that faults.
    func ending(_ count: Int) -> UnsafeMutableRawPointer {
        precondition(count <= capacity)
        return end - count
    }

    /// Copies bytes so that they end where the memory ends.
    func place(_ bytes: Bytes) -> UnsafeMutableRawPointer {
        let start = ending(bytes.count)
        bytes.withUnsafeBytes {
            UnsafeMutableRawBufferPointer(start: start, count: bytes.count).copyMemory(from: $0)
        }
        return start
    }
}

func bytes(_ start: UnsafeRawPointer, _ count: Int) -> Bytes {
    Bytes(UnsafeRawBufferPointer(start: start, count: count))
}

/// The bytes that a gathering write would send.
func gathered(_ vectors: UnsafeMutablePointer<iovec>, _ count: Int) -> Bytes {
    (0..<count).reduce(into: Bytes()) { $0 += bytes(vectors[$1].iov_base, vectors[$1].iov_len) }
}
