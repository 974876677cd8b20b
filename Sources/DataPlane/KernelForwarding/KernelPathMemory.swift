import CKernelForwarding
import Forwarding
import Glibc
import KernelPrograms

/// The memory in which the programs and the packet threads tell each other what went past these, and what is through them. It
/// is there before the programs are, so that packet threads have it from their beginning, and is of one data plane: what
/// another one's said is in other memory.
public final class KernelPathMemory: Sendable {
    private static let passageCount = Int(KERNEL_WAYS.rawValue) * Int(KERNEL_WORKERS)
    private static let passageBytes = passageCount * MemoryLayout<kernel_passage>.stride
    private static let timeBytes = MemoryLayout<UInt64>.size

    private let awaited: KernelMap
    private let passages: KernelMap
    private nonisolated(unsafe) let awaitedMemory: UnsafeMutableRawPointer
    private nonisolated(unsafe) let passageMemory: UnsafeMutableRawPointer

    /// Makes it.
    ///
    /// - Throws: `KernelProgramError` where the kernel gives no map, or does not show one to this process: then nobody could
    ///   say what is through, and there is no kernel path.
    public init() throws(KernelProgramError) {
        let number = MemoryLayout<UInt32>.size
        awaited = try .make(
            .arrayInMemory, keyBytes: number, valueBytes: KernelPathMemory.timeBytes, entryLimit: 1,
            name: "twill_awaited")
        do throws(KernelProgramError) {
            passages = try .make(
                .arrayInMemory, keyBytes: number, valueBytes: MemoryLayout<kernel_passage>.stride,
                entryLimit: KernelPathMemory.passageCount, name: "twill_passages")
        } catch {
            awaited.close()
            throw error
        }
        guard let awaitedMemory = awaited.memory(bytes: KernelPathMemory.timeBytes) else {
            let code = errno
            awaited.close()
            passages.close()
            throw KernelProgramError("see the map twill_awaited", errorNumber: code)
        }
        guard let passageMemory = passages.memory(bytes: KernelPathMemory.passageBytes) else {
            let code = errno
            munmap(awaitedMemory, KernelPathMemory.timeBytes)
            awaited.close()
            passages.close()
            throw KernelProgramError("see the map twill_passages", errorNumber: code)
        }
        self.awaitedMemory = awaitedMemory
        self.passageMemory = passageMemory
    }

    deinit {
        munmap(awaitedMemory, KernelPathMemory.timeBytes)
        munmap(passageMemory, KernelPathMemory.passageBytes)
        awaited.close()
        passages.close()
    }

    /// What the workers see of it, for as long as this object is there.
    public var traffic: KernelPathTraffic { KernelPathTraffic(awaitedMemory, passages: passageMemory) }

    /// The maps under other descriptors, in the order of `kernel_map`, which whoever asks for them closes.
    func sharedMaps() throws(KernelProgramError) -> [KernelMap] {
        let first = try KernelPathMemory.share(awaited, "twill_awaited")
        do throws(KernelProgramError) {
            return [first, try KernelPathMemory.share(passages, "twill_passages")]
        } catch {
            first.close()
            throw error
        }
    }

    private static func share(_ map: KernelMap, _ name: String) throws(KernelProgramError) -> KernelMap {
        let descriptor = fcntl(map.descriptor, F_DUPFD_CLOEXEC, 3)
        guard descriptor >= 0 else {
            throw KernelProgramError("share the map \(name)", errorNumber: errno)
        }
        return KernelMap(descriptor: descriptor)
    }
}
