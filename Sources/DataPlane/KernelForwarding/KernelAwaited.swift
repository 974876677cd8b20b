import CKernelForwarding
import Forwarding
import Glibc
import KernelPrograms

/// The memory in which the programs note when a packet last went by them that somebody waits for. It is there before the
/// programs are, so that packet threads can look at it from their beginning.
public final class KernelAwaited: Sendable {
    private let map: KernelMap
    private nonisolated(unsafe) let memory: UnsafeRawPointer?

    /// Makes it.
    ///
    /// - Throws: `KernelProgramError` where the kernel gives no map.
    public init() throws(KernelProgramError) {
        map = try .make(
            .arrayInMemory, keyBytes: MemoryLayout<UInt32>.size, valueBytes: MemoryLayout<UInt64>.size,
            entryLimit: 1, name: "twill_awaited")
        memory = map.memory(bytes: MemoryLayout<UInt64>.size)
    }

    deinit {
        if let memory { munmap(UnsafeMutableRawPointer(mutating: memory), MemoryLayout<UInt64>.size) }
        map.close()
    }

    /// What the workers see of what passes them, for as long as this object is there; nil where the kernel does not show it.
    public var traffic: KernelPathTraffic? { memory.map(KernelPathTraffic.init) }

    /// The map under another descriptor, which whoever asks for it closes.
    func sharedMap() throws(KernelProgramError) -> KernelMap {
        let descriptor = fcntl(map.descriptor, F_DUPFD_CLOEXEC, 3)
        guard descriptor >= 0 else {
            throw KernelProgramError("share the map twill_awaited", errorNumber: errno)
        }
        return KernelMap(descriptor: descriptor)
    }
}
