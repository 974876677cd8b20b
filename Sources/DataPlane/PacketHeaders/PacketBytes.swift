/// Reads and writes of fields at byte offsets of a packet. The caller has checked the length once.
extension UnsafeMutableRawPointer {
    /// The byte at `offset`.
    @inlinable @inline(__always)
    public func byte(_ offset: Int) -> UInt8 { load(fromByteOffset: offset, as: UInt8.self) }

    /// The 16-bit field at `offset`, from network to host byte order.
    @inlinable @inline(__always)
    public func field16(_ offset: Int) -> UInt16 {
        UInt16(bigEndian: loadUnaligned(fromByteOffset: offset, as: UInt16.self))
    }

    /// The 32-bit field at `offset`, from network to host byte order.
    @inlinable @inline(__always)
    public func field32(_ offset: Int) -> UInt32 {
        UInt32(bigEndian: loadUnaligned(fromByteOffset: offset, as: UInt32.self))
    }

    /// The 64-bit field at `offset`, from network to host byte order.
    @inlinable @inline(__always)
    public func field64(_ offset: Int) -> UInt64 {
        UInt64(bigEndian: loadUnaligned(fromByteOffset: offset, as: UInt64.self))
    }

    /// Writes the byte at `offset`.
    @inlinable @inline(__always)
    public func setByte(_ offset: Int, _ value: UInt8) {
        storeBytes(of: value, toByteOffset: offset, as: UInt8.self)
    }

    /// Writes the 16-bit field at `offset` in network byte order; `value` is in host byte order.
    @inlinable @inline(__always)
    public func setField16(_ offset: Int, _ value: UInt16) {
        storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt16.self)
    }

    /// Writes the 32-bit field at `offset` in network byte order; `value` is in host byte order.
    @inlinable @inline(__always)
    public func setField32(_ offset: Int, _ value: UInt32) {
        storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt32.self)
    }

    /// Writes the 64-bit field at `offset` in network byte order; `value` is in host byte order.
    @inlinable @inline(__always)
    public func setField64(_ offset: Int, _ value: UInt64) {
        storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt64.self)
    }
}
