/// Finds the open slot of a flow: a set-associative table of slot numbers, allocated once.
///
/// A slot whose entry another flow took is never found again, so never joined: as good as closed. Emptying the table
/// costs nothing, as an entry counts only if it carries the present generation.
struct FlowTable: ~Copyable {
    /// Entries of a set; 32 bytes, so a look-up touches one cache line.
    static let ways = 4

    /// Generation (32 bits), tag (16 bits of the hash), slot (16 bits). Generation 0 is never present.
    private let entries: UnsafeMutablePointer<UInt64>
    private let entryCount: Int
    private let setMask: UInt64
    private(set) var generation: UInt32

    /// A table for `slotLimit` flows (1 or more) at four entries each, so that a set is seldom full.
    init(slotLimit: Int, generation: UInt32 = 1) {
        var sets = 1
        while sets < slotLimit { sets <<= 1 }
        entryCount = sets &* FlowTable.ways
        entries = .allocate(capacity: entryCount)
        entries.initialize(repeating: 0, count: entryCount)
        setMask = UInt64(truncatingIfNeeded: sets &- 1)
        self.generation = generation
    }

    deinit { entries.deallocate() }

    /// The first entry of the set of a hash.
    @inline(__always)
    func set(_ hash: UInt64) -> UnsafeMutablePointer<UInt64> {
        entries + Int(truncatingIfNeeded: hash & setMask) &* FlowTable.ways
    }

    /// The slot that entry `way` of a set names, or nil if it is empty.
    @inline(__always)
    func slot(_ set: UnsafeMutablePointer<UInt64>, _ way: Int) -> Int? {
        let entry = set[way]
        guard entry >> 32 == UInt64(generation) else { return nil }
        return Int(truncatingIfNeeded: entry & 0xFFFF)
    }

    /// Whether entry `way` of a set was entered under a hash of the same tag.
    @inline(__always)
    func hasTag(_ set: UnsafeMutablePointer<UInt64>, _ way: Int, of hash: UInt64) -> Bool {
        set[way] >> 16 == key(hash)
    }

    /// Writes entry `way` of a set, in place of what it was.
    @inline(__always)
    func enter(_ set: UnsafeMutablePointer<UInt64>, _ way: Int, hash: UInt64, slot: Int) {
        set[way] = key(hash) << 16 | UInt64(truncatingIfNeeded: slot)
    }

    @inline(__always)
    private func key(_ hash: UInt64) -> UInt64 { UInt64(generation) << 16 | hash >> 48 }

    /// Empties the table.
    mutating func removeAll() {
        generation &+= 1
        guard generation == 0 else { return }
        // Entries of four billion generations ago would count again.
        entries.update(repeating: 0, count: entryCount)
        generation = 1
    }
}
