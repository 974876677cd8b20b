/// Which of the worker's buffers were filled before some moment: those of the former generation. Two counts and a byte for each
/// buffer.
struct BufferGenerations: ~Copyable {
    private let generations: UnsafeMutablePointer<UInt8>
    private var current: UInt8 = 0
    private var counts = (0, 0)

    init(capacity: Int) {
        generations = .allocate(capacity: capacity)
        generations.initialize(repeating: 0, count: capacity)
    }

    deinit { generations.deallocate() }

    /// Notes that a buffer was filled.
    @inline(__always)
    mutating func noteFilled(_ buffer: Int) {
        generations[buffer] = current
        if current == 0 { counts.0 &+= 1 } else { counts.1 &+= 1 }
    }

    /// Notes that nobody needs what a buffer was filled with any more.
    @inline(__always)
    mutating func noteFree(_ buffer: Int) {
        if generations[buffer] == 0 { counts.0 &-= 1 } else { counts.1 &-= 1 }
        assert(counts.0 >= 0 && counts.1 >= 0, "buffer \(buffer) is free twice")
    }

    /// Begins another generation; the caller makes sure that nothing is left of the former one.
    @inline(__always)
    mutating func beginNext() {
        assert(isFormerGone)
        current ^= 1
    }

    /// Whether nothing is left of the generation before this one.
    @inline(__always)
    var isFormerGone: Bool { (current == 0 ? counts.1 : counts.0) == 0 }
}
