import CLinux
import Glibc

/// A map: memory in the kernel that programs and this process both read and write, entry by entry.
public struct KernelMap: Sendable {
    /// The map's descriptor; the owner closes it.
    public let descriptor: Int32

    /// What kind of map it is.
    public enum Kind: Sendable {
        /// Entries by any key.
        case hash
        /// Entries by their number.
        case array
        /// Entries by their number, which `memory` shows to this process as well.
        case arrayInMemory
        /// Entries by their number, with a value for each CPU.
        case arrayOfEachCPU
        /// Entries by a prefix: a 32-bit length, and an address in network byte order. The longest that fits is found.
        case prefixes
        /// Maps by their number, each made as the given one was.
        case arrayOfMaps(inner: KernelMap)

        var code: twill_map_kind {
            switch self {
            case .hash: TWILL_MAP_HASH
            case .array: TWILL_MAP_ARRAY
            case .arrayInMemory: TWILL_MAP_ARRAY_IN_MEMORY
            case .arrayOfEachCPU: TWILL_MAP_ARRAY_OF_EACH_CPU
            case .prefixes: TWILL_MAP_PREFIXES
            case .arrayOfMaps: TWILL_MAP_ARRAY_OF_MAPS
            }
        }
    }

    /// Makes a map. It is there for as long as somebody has a descriptor of it, or a program uses it.
    ///
    /// - Parameters:
    ///   - kind: what kind of map.
    ///   - keyBytes: the bytes of a key.
    ///   - valueBytes: the bytes of a value, for each CPU where there is one for each.
    ///   - entryLimit: how many entries it takes at most; an array has them from the beginning.
    ///   - name: what `bpftool map` shows, 15 bytes at most.
    /// - Throws: `KernelProgramError` where the kernel refuses it.
    public static func make(
        _ kind: Kind, keyBytes: Int, valueBytes: Int, entryLimit: Int, name: String
    ) throws(KernelProgramError) -> KernelMap {
        var inner: Int32 = -1
        if case .arrayOfMaps(let template) = kind { inner = template.descriptor }
        let descriptor = twill_map_make(
            kind.code, UInt32(clamping: keyBytes), UInt32(clamping: valueBytes),
            UInt32(clamping: entryLimit), inner, name)
        guard descriptor >= 0 else {
            throw KernelProgramError("make the map \(name)", errorNumber: errno)
        }
        return KernelMap(descriptor: descriptor)
    }

    /// Takes over a map from whoever made it.
    public init(descriptor: Int32) { self.descriptor = descriptor }

    /// Sets an entry, whole. `key` and `value` are of as many bytes as the map was made for.
    ///
    /// - Returns: whether the kernel took it: a full map takes no more entries, and memory may be short.
    public func set<Key: BitwiseCopyable, Value: BitwiseCopyable>(_ key: Key, to value: Value) -> Bool {
        withUnsafePointer(to: key) { key in
            withUnsafePointer(to: value) { twill_map_set(descriptor, key, $0) == 0 }
        }
    }

    /// The value of an entry of a map that has one for all CPUs; nil where there is no such entry.
    public func value<Key: BitwiseCopyable, Value: BitwiseCopyable>(of key: Key, startingWith value: Value)
        -> Value?
    {
        var value = value
        let isThere = withUnsafePointer(to: key) { key in
            withUnsafeMutablePointer(to: &value) { twill_map_get(descriptor, key, $0) == 0 }
        }
        return isThere ? value : nil
    }

    /// Gives the values of an entry of a map that has one for each CPU.
    ///
    /// - Parameters:
    ///   - key: the entry's number.
    ///   - empty: a value to make room with. A value's bytes are a multiple of 8.
    /// - Returns: one for each CPU that there may ever be; none where there is no such entry.
    public func values<Value: BitwiseCopyable>(of key: UInt32, startingWith empty: Value) -> [Value] {
        var values = [Value](repeating: empty, count: KernelMap.possibleCPUs)
        let isThere = withUnsafePointer(to: key) { key in
            values.withUnsafeMutableBytes { twill_map_get(descriptor, key, $0.baseAddress) == 0 }
        }
        return isThere ? values : []
    }

    /// Sets an entry of a map that has a value for each CPU, to the same for all of them.
    ///
    /// - Parameters:
    ///   - key: the entry's number.
    ///   - value: of a multiple of 8 bytes.
    /// - Returns: whether the kernel took it.
    public func setOnEachCPU<Value: BitwiseCopyable>(_ key: UInt32, to value: Value) -> Bool {
        let values = [Value](repeating: value, count: KernelMap.possibleCPUs)
        return withUnsafePointer(to: key) { key in
            values.withUnsafeBytes { twill_map_set(descriptor, key, $0.baseAddress) == 0 }
        }
    }

    /// The values of an `arrayInMemory`, one behind the other, to be read and written while programs do so; nil where the kernel
    /// refuses. The caller gives the memory back by `munmap`.
    ///
    /// - Parameter bytes: of all values.
    public func memory(bytes: Int) -> UnsafeMutableRawPointer? { twill_map_memory(descriptor, bytes) }

    /// Takes an entry away; one that is not there is none the worse.
    public func remove<Key: BitwiseCopyable>(_ key: Key) {
        _ = withUnsafePointer(to: key) { twill_map_remove(descriptor, $0) }
    }

    /// Closes the descriptor.
    public func close() { Glibc.close(descriptor) }

    /// At least one: a kernel without /sys is asked for a value for each of many.
    private static let possibleCPUs: Int = {
        let count = Int(twill_possible_cpus())
        return count > 0 ? count : 4096
    }()
}
