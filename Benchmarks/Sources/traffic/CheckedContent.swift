/// Bytes that both ends of a check know without having exchanged them: a table drawn from a seed, read from any position
/// on and around its end.
///
/// A datagram's payload, or a stream at a position, is a run of the table that begins at a place of its own. So content that
/// is lost, repeated, moved, or another flow's is as wrong as a flipped bit.
struct CheckedContent: ~Copyable {
    /// A prime, so that no size of packets or super-packets divides it: a stream that slipped by any number of them
    /// is at another place of the table. Small enough for a second-level cache.
    private static let period = 262_139

    /// The table twice, so that every run of up to `period` bytes lies in one piece.
    private let table: UnsafeMutableRawPointer

    init(seed: UInt32) {
        table = .allocate(byteCount: 2 * Self.period, alignment: 64)
        for place in 0..<Self.period {
            let byte = UInt8(truncatingIfNeeded: mixed(UInt64(seed) << 32 | UInt64(place)))
            table.storeBytes(of: byte, toByteOffset: place, as: UInt8.self)
        }
        (table + Self.period).copyMemory(from: table, byteCount: Self.period)
    }

    deinit { table.deallocate() }

    /// The longest run that `run` gives: more than any datagram has.
    static var longestRun: Int { period }

    /// The payload of a datagram.
    func run(flow: UInt16, sequence: UInt64) -> UnsafeMutableRawPointer {
        table + Int(mixed(UInt64(flow) << 48 ^ sequence) % UInt64(Self.period))
    }

    /// A stream from a position on.
    func run(stream flow: UInt16, position: UInt64) -> UnsafeMutableRawPointer {
        table + Int((mixed(UInt64(flow)) % UInt64(Self.period) &+ position) % UInt64(Self.period))
    }
}

/// The finalizer of SplitMix64: each bit of the result depends on all of the argument's.
func mixed(_ value: UInt64) -> UInt64 {
    var bits = value &+ 0x9E37_79B9_7F4A_7C15
    bits = (bits ^ bits >> 30) &* 0xBF58_476D_1CE4_E5B9
    bits = (bits ^ bits >> 27) &* 0x94D0_49BB_1331_11EB
    return bits ^ bits >> 31
}

/// A generator of a given seed, so that a run can be repeated.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        return mixed(state)
    }

    /// True once in so many times.
    mutating func oneIn(_ times: Int) -> Bool { Int.random(in: 0..<times, using: &self) == 0 }
}

/// What stands before checked content: at the start of each datagram, and once at the start of each stream; little endian.
///
///     offset  bytes
///          0      4  seed
///          4      2  flow
///          6      2  bytes of the whole datagram; 0 before a stream
///          8      8  sequence number in the flow
///         16      8  check: a hash of the above
struct CheckedHeader {
    static let bytes = 24

    var seed: UInt32
    var flow: UInt16
    var length: UInt16
    var sequence: UInt64

    init(seed: UInt32, flow: UInt16, length: Int, sequence: UInt64) {
        self.seed = seed
        self.flow = flow
        self.length = UInt16(length)
        self.sequence = sequence
    }

    /// Nil where the check says that something was changed.
    init?(from bytes: UnsafeRawPointer) {
        seed = bytes.loadUnaligned(as: UInt32.self)
        flow = bytes.loadUnaligned(fromByteOffset: 4, as: UInt16.self)
        length = bytes.loadUnaligned(fromByteOffset: 6, as: UInt16.self)
        sequence = bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
        guard bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self) == check else { return nil }
    }

    private var check: UInt64 {
        mixed(mixed(UInt64(seed) << 32 | UInt64(flow) << 16 | UInt64(length)) ^ sequence)
    }

    func store(to bytes: UnsafeMutableRawPointer) {
        bytes.storeBytes(of: seed, as: UInt32.self)
        bytes.storeBytes(of: flow, toByteOffset: 4, as: UInt16.self)
        bytes.storeBytes(of: length, toByteOffset: 6, as: UInt16.self)
        bytes.storeBytes(of: sequence, toByteOffset: 8, as: UInt64.self)
        bytes.storeBytes(of: check, toByteOffset: 16, as: UInt64.self)
    }
}
