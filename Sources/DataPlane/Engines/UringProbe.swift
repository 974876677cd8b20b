import CLiburing
import CLinux
import Glibc

/// Whether this kernel, as this process meets it, has what `UringEngine` needs: for `twilld check`.
public enum UringProbe {
    /// The operations of the ring, and whether the kernel has each.
    ///
    /// - Throws: where not even a ring can be made.
    public static func operations() throws(UringError) -> [(name: String, isSupported: Bool)] {
        errno = 0
        guard let probe = io_uring_get_probe() else {
            throw UringError(action: "make a ring", errorNumber: errno == 0 ? ENOSYS : errno)
        }
        defer { io_uring_free_probe(probe) }
        let operations: [(String, io_uring_op)] = [
            ("READ", IORING_OP_READ), ("READ_FIXED", IORING_OP_READ_FIXED), ("WRITEV", IORING_OP_WRITEV),
            ("RECVMSG", IORING_OP_RECVMSG), ("SENDMSG", IORING_OP_SENDMSG),
            ("ASYNC_CANCEL", IORING_OP_ASYNC_CANCEL),
        ]
        return operations.map {
            ($0.0, io_uring_opcode_supported(probe, Int32(bitPattern: $0.1.rawValue)) != 0)
        }
    }

    /// Why `UringEngine` cannot work here, or nil.
    public static func refusal() -> UringError? {
        do throws(UringError) {
            for operation in try operations() where !operation.isSupported {
                return UringError(action: "use the operation \(operation.name)", errorNumber: EINVAL)
            }
            _ = try makeRing(lockedBytes: 4096)
            return nil
        } catch { return error }
    }

    /// Makes a ring with the worker's set-up flags, a buffer ring and `lockedBytes` of registered memory, and takes
    /// it down again.
    ///
    /// - Returns: whether the memory could be registered; without it twilld runs a few percent slower.
    /// - Throws: `UringError` where the kernel has no such ring, or not the memory for it.
    public static func makeRing(lockedBytes: Int) throws(UringError) -> Bool {
        let ring = UnsafeMutablePointer<io_uring>.allocate(capacity: 1)
        defer { ring.deallocate() }
        ring.initialize(to: io_uring())
        var parameters = io_uring_params()
        parameters.flags = twill_setup_flags(0)
        parameters.cq_entries = 256
        let made = io_uring_queue_init_params(64, ring, &parameters)
        guard made == 0 else { throw UringError(action: "make a ring", errorNumber: -made) }
        defer { io_uring_queue_exit(ring) }
        guard let buffers = twill_make_buffer_ring(ring, 8, 0) else {
            throw UringError(action: "register a buffer ring", errorNumber: errno)
        }
        defer { twill_free_buffer_ring(buffers, 8) }
        guard let memory = mmap(nil, lockedBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            memory != MAP_FAILED
        else { throw UringError(action: "allocate \(lockedBytes) bytes", errorNumber: errno) }
        defer { munmap(memory, lockedBytes) }
        var vector = iovec(iov_base: memory, iov_len: lockedBytes)
        return io_uring_register_buffers(ring, &vector, 1) == 0
    }
}
