/// What stands at the start of every datagram of the generator; little endian, the rest is zeros.
///
///     offset  bytes
///          0      4  run: told apart from stragglers of an earlier run
///          4      2  kind
///          6      2  flow
///          8      8  sequence number in the flow
struct Datagram {
    enum Kind: UInt16 {
        case data = 1
        /// Asks the sink for what it has of this run.
        case reportRequest = 2
        /// Sent back as it came.
        case echo = 3
    }

    static let headerBytes = 16
    /// What IPv4 and UDP leave of a packet of 65,535 bytes.
    static let maximumBytes = 65_507

    static func store(
        run: UInt32, kind: Kind, flow: UInt16, sequence: UInt64, to bytes: UnsafeMutableRawPointer
    ) {
        bytes.storeBytes(of: run, as: UInt32.self)
        bytes.storeBytes(of: kind.rawValue, toByteOffset: 4, as: UInt16.self)
        bytes.storeBytes(of: flow, toByteOffset: 6, as: UInt16.self)
        bytes.storeBytes(of: sequence, toByteOffset: 8, as: UInt64.self)
    }
}

/// What a sink has of one run, as it sends it back: six 64-bit words, little endian.
struct SinkReport {
    /// Datagrams that came.
    var received: UInt64 = 0
    /// Datagrams that came after a later one of their flow.
    var reordered: UInt64 = 0
    /// Datagrams that came with the wrong size for the run.
    var malformed: UInt64 = 0
    /// Datagrams that the kernel dropped because the sink was slow (`SO_RXQ_OVFL`).
    var droppedAtSink: UInt64 = 0
    /// Nanoseconds between the first and the last datagram.
    var nanoseconds: UInt64 = 0

    static let bytes = 8 + 5 * 8

    func store(run: UInt32, to bytes: UnsafeMutableRawPointer) {
        Datagram.store(run: run, kind: .reportRequest, flow: 0, sequence: received, to: bytes)
        bytes.storeBytes(of: reordered, toByteOffset: 16, as: UInt64.self)
        bytes.storeBytes(of: malformed, toByteOffset: 24, as: UInt64.self)
        bytes.storeBytes(of: droppedAtSink, toByteOffset: 32, as: UInt64.self)
        bytes.storeBytes(of: nanoseconds, toByteOffset: 40, as: UInt64.self)
    }

    init() {}

    init(from bytes: UnsafeRawPointer) {
        received = bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
        reordered = bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self)
        malformed = bytes.loadUnaligned(fromByteOffset: 24, as: UInt64.self)
        droppedAtSink = bytes.loadUnaligned(fromByteOffset: 32, as: UInt64.self)
        nanoseconds = bytes.loadUnaligned(fromByteOffset: 40, as: UInt64.self)
    }
}
