import Addresses

/// Which of a machine's routes somebody wants to know of: default routes, those that touch given prefixes, those
/// that leave by a given interface, and those of a given maker. A router has hundreds of thousands of others, which
/// are told from these by a few loads each.
public struct RouteInterest: Sendable, Hashable {
    /// An IPv4 route whose destination overlaps one of them is of interest.
    public var prefixes: [IPv4Prefix]
    /// An IPv6 route whose destination overlaps one of them is of interest.
    public var ipv6Prefixes: [IPv6Prefix] = []
    /// Whether IPv6 routes are of any interest.
    public var includesIPv6 = false
    /// A route that leaves by one of these interfaces alone is of interest.
    public var interfaceIndexes: [Int32]
    /// A route that this maker (`Route.origin`) has made is of interest; nil for none.
    public var origin: UInt8?

    /// Is interested in default routes, in those that overlap `prefixes`, in those by `interfaceIndexes`, and in those
    /// of `origin`: of IPv4 ones, as long as `includesIPv6` is not set.
    public init(prefixes: [IPv4Prefix] = [], interfaceIndexes: [Int32] = [], origin: UInt8? = nil) {
        self.prefixes = prefixes
        self.interfaceIndexes = interfaceIndexes
        self.origin = origin
    }

    /// Is interested in default routes, and in those that overlap one prefix.
    public init(touching prefix: IPPrefix) {
        self.init(prefixes: prefix.v4.map { [$0] } ?? [])
        ipv6Prefixes = prefix.v6.map { [$0] } ?? []
        includesIPv6 = prefix.v6 != nil
    }

    /// Whether an `RTM_NEWROUTE` or `RTM_DELROUTE` is about a route of interest: one in a table, not in the cache.
    /// `payload` is what follows the message's header.
    func includes(_ payload: UnsafeRawBufferPointer) -> Bool {
        guard payload.count >= MessageLayout.routeSize,
            payload[0] == Family.v4 || includesIPv6 && payload[0] == Family.v6
        else { return false }
        let length = Int(payload[1])
        let flags = payload.loadUnaligned(fromByteOffset: 8, as: UInt32.self)
        guard length <= (payload[0] == Family.v4 ? 32 : 128), flags & Route.clonedFlag == 0 else {
            return false
        }
        return length == 0 || payload[5] == origin || includes(attributes: payload, length: length)
    }

    /// Walks the attributes without gathering them.
    private func includes(attributes bytes: UnsafeRawBufferPointer, length: Int) -> Bool {
        var offset = MessageLayout.routeSize
        while bytes.count &- offset >= MessageLayout.attributeHeaderSize {
            let size = Int(bytes.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
            let type = Int(bytes.loadUnaligned(fromByteOffset: offset &+ 2, as: UInt16.self))
            guard size >= MessageLayout.attributeHeaderSize, size <= bytes.count &- offset else {
                return false
            }
            if size == MessageLayout.attributeHeaderSize &+ 2 &* MemoryLayout<UInt64>.size {
                if type & MessageLayout.attributeTypeMask == RouteAttribute.destination,
                    overlaps(bytes, at: offset &+ MessageLayout.attributeHeaderSize, length: length)
                {
                    return true
                }
            } else if size == MessageLayout.attributeHeaderSize &+ MemoryLayout<UInt32>.size {
                let value = bytes.loadUnaligned(
                    fromByteOffset: offset &+ MessageLayout.attributeHeaderSize, as: UInt32.self)
                switch type & MessageLayout.attributeTypeMask {
                case RouteAttribute.destination:
                    guard length <= 32 else { return false }
                    let destination = IPv4Prefix(IPv4Address(networkBytes: value), length: length)
                    if prefixes.contains(where: { $0.overlaps(destination) }) { return true }
                case RouteAttribute.outputInterface:
                    if interfaceIndexes.contains(Int32(bitPattern: value)) { return true }
                default: break
                }
            }
            offset = offset &+ MessageLayout.aligned(size)
        }
        return false
    }

    /// Whether the IPv6 destination of 16 bytes at `offset` overlaps a prefix of interest.
    private func overlaps(_ bytes: UnsafeRawBufferPointer, at offset: Int, length: Int) -> Bool {
        let destination = IPv6Prefix(
            IPv6Address(
                high: UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)),
                low: UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: offset &+ 8, as: UInt64.self))),
            length: length)
        return ipv6Prefixes.contains { $0.overlaps(destination) }
    }
}

/// A packet whose way is asked for.
public struct RouteQuestion: Sendable, Hashable {
    /// Where it goes.
    public var destination: IPAddress
    /// Where it comes from, of the same family; nil where the kernel is to choose. Must be given with `inputInterface`.
    public var source: IPAddress?
    /// The interface that it came in by; nil for a packet of this machine.
    public var inputInterface: Int32?

    /// Makes a question.
    public init(to destination: IPAddress, from source: IPAddress? = nil, by inputInterface: Int32? = nil) {
        self.destination = destination
        self.source = source
        self.inputInterface = inputInterface
    }
}

/// What the kernel does with a packet.
public enum RouteAnswer: Sendable, Hashable {
    /// It goes by this route of a table.
    case route(Route)
    /// It goes nowhere: the error number says why, positive. EINVAL: a blackhole; EHOSTUNREACH and ENETUNREACH:
    /// unreachable, or no route; EACCES: prohibited (`fib_props` of net/ipv4/fib_semantics.c, `fib4_rule_action`,
    /// `fib6_prop` of net/ipv6/route.c, `fib6_rule_action`).
    case refused(Int32)
}
