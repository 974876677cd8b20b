import CLinux

/// What the C library does with memory that is not used any more.
package enum ProcessMemory {
    /// Bytes from which on an allocation has pages of its own.
    private static let largeBytes: Int32 = 256 << 10

    /// Has the kernel get large allocations back when they end; to be called before there are others. By itself glibc takes from the
    /// first one that ends how large is large from then on, up to 32 MiB (mallopt(3)): so what a data plane that is followed by
    /// another had would stay with the process, in one of up to 8 arenas for each processor.
    package static func returnLarge() { twill_return_allocations(largeBytes) }
}
