import Seeded

/// Draws inputs from a seed: valid ones with some changes, most of them where headers are.
struct Mutator {
    private var random: SeededRandom
    private let seeds: [[UInt8]]
    private let words: [[UInt8]]
    private let maximumBytes: Int

    init(_ target: any FuzzTarget, seed: UInt64) {
        random = SeededRandom(seed: seed)
        seeds = target.seeds + [[]]
        words = target.words + Mutator.edges
        maximumBytes = target.maximumBytes
    }

    /// Numbers at the edge of their range, in both byte orders.
    private static let edges: [[UInt8]] = [
        [0], [1], [0x7F], [0x80], [0xFF], [0, 0], [0, 1], [1, 0], [0x7F, 0xFF], [0x80, 0], [0xFF, 0xFF],
        [0, 20], [5, 0xC0],
        [0, 0, 0, 0], [0xFF, 0xFF, 0xFF, 0xFF], [0x7F, 0xFF, 0xFF, 0xFF], [0xFF, 0xFF, 0xFF, 0x7F],
        [0, 0, 0, 0x80],
        [UInt8](repeating: 0, count: 8), [UInt8](repeating: 0xFF, count: 8), [0, 0, 0, 0, 0, 0, 0, 0x80],
    ]

    mutating func next() -> [UInt8] {
        var bytes = random.one(of: seeds)
        if random.oneIn(16) { return bytes }
        for _ in 0...random.below(4) { change(&bytes) }
        if bytes.count > maximumBytes { bytes.removeLast(bytes.count - maximumBytes) }
        return bytes
    }

    private mutating func change(_ bytes: inout [UInt8]) {
        guard !bytes.isEmpty else { return bytes = random.bytes(random.below(40)) }
        let place = random.oneIn(2) ? random.below(min(bytes.count, 64)) : random.below(bytes.count)
        let end = min(bytes.count, place + 1 + random.below(16))
        switch random.below(12) {
        case 0: bytes[place] = random.byte()
        case 1, 2: bytes[place] ^= 1 << UInt8(random.below(8))
        case 3, 4: overwrite(&bytes, at: place, random.one(of: words))
        case 5: bytes.insert(contentsOf: random.one(of: words), at: place)
        case 6: bytes.removeSubrange(place..<end)
        case 7: bytes.insert(contentsOf: bytes[place..<end], at: place)
        case 8: bytes.removeLast(random.below(bytes.count + 1))
        case 9: bytes += random.bytes(random.below(40))
        case 10: number(&bytes, at: place)
        default: bytes = Array(bytes[..<place]) + random.one(of: seeds).dropFirst(place)
        }
    }

    private func overwrite(_ bytes: inout [UInt8], at place: Int, _ word: [UInt8]) {
        for (index, byte) in word.enumerated() where place + index < bytes.count {
            bytes[place + index] = byte
        }
    }

    /// A 16-bit number in either order: one more, one less, or the count of bytes from there on.
    private mutating func number(_ bytes: inout [UInt8], at place: Int) {
        guard place + 1 < bytes.count else { return }
        let isBig = random.oneIn(2)
        let (high, low) = isBig ? (place, place + 1) : (place + 1, place)
        var value = UInt16(bytes[high]) << 8 | UInt16(bytes[low])
        switch random.below(3) {
        case 0: value &+= 1
        case 1: value &-= 1
        default: value = UInt16(truncatingIfNeeded: bytes.count - place)
        }
        bytes[high] = UInt8(value >> 8)
        bytes[low] = UInt8(value & 0xFF)
    }
}
