/// SplitMix64: the same numbers for the same seed, on every run.
public struct SeededRandom: RandomNumberGenerator, Sendable {
    private var state: UInt64

    /// Begins the sequence of a seed.
    public init(seed: UInt64) { state = seed }

    /// The next 64 bits.
    public mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ value >> 30) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ value >> 27) &* 0x94D0_49BB_1331_11EB
        return value ^ value >> 31
    }

    /// A number from 0 up to but not including `bound`, which is 1 or more.
    public mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(bound)) }

    /// A byte.
    public mutating func byte() -> UInt8 { UInt8(truncatingIfNeeded: next()) }

    /// Bytes.
    public mutating func bytes(_ count: Int) -> [UInt8] { (0..<count).map { _ in byte() } }

    /// One of some; there is one at least.
    public mutating func one<Value>(of values: [Value]) -> Value { values[below(values.count)] }

    /// True once in `count` times.
    public mutating func oneIn(_ count: Int) -> Bool { below(count) == 0 }

    /// True in `percent` of a hundred times.
    public mutating func chance(_ percent: Int) -> Bool { below(100) < percent }
}
