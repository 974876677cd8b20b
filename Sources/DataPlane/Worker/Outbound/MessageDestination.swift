import Addresses

/// Where a message goes, as one word to compare: the address's network bytes in the lower 32 bits, the port's in the
/// next 16, the peer's counter slot in the highest.
enum MessageDestination {
    @inline(__always)
    static func of(_ endpoint: Endpoint, counterSlot: UInt16) -> UInt64 {
        UInt64(endpoint.address.networkBytes) | UInt64(endpoint.port.bigEndian) << 32
            | UInt64(counterSlot) << 48
    }

    @inline(__always)
    static func counterSlot(_ destination: UInt64) -> UInt16 {
        UInt16(truncatingIfNeeded: destination >> 48)
    }
}
