// How it works. A snapshot is one block of memory that never changes after it was built: a list of peers, and
// for each address family a longest-prefix table made of one open-addressing hash table for each prefix length
// in use, longest first. Networks use one length, or two, so a look-up is one multiply and about one cache line.
// A second hash set holds the peers' underlay addresses. The publication that replaces snapshots under the
// workers is in ForwardingPublication.swift.

import Addresses

/// An immutable forwarding table: which peer holds an inner address, and whether an outer address is a peer's.
///
/// A snapshot refers to memory that `build` allocated and `deallocate` frees; copies refer to the same memory.
@frozen
public struct ForwardingSnapshot: @unchecked Sendable {
    @usableFromInline let storage: UnsafeMutablePointer<Storage>

    /// A peer's place in the snapshot, 0 to 65,535.
    public typealias PeerIndex = Int

    /// More peers than this are left out by `build`: a place fits 16 bits, and each costs 12 bytes and two
    /// to four hash cells.
    public static let peerLimit = 65_536

    // 12 bytes: address, port, slot, and whether it is paced.
    @frozen @usableFromInline
    struct Peer {
        @usableFromInline var endpoint: Endpoint
        @usableFromInline var counterSlot: UInt16
        @usableFromInline var isPaced: Bool
    }

    @frozen @usableFromInline
    struct Storage {
        @usableFromInline var peers: UnsafeMutablePointer<Peer>
        @usableFromInline var peerCount: Int
        @usableFromInline var ipv4: PrefixTable<UInt32>
        @usableFromInline var ipv6: PrefixTable<IPv6Address>
        @usableFromInline var outer: PrefixTable<UInt32>
        @usableFromInline var localIPv4: IPv4Prefix
        @usableFromInline var localIPv6: IPv6Prefix
        @usableFromInline var hasLocalIPv4: Bool
        @usableFromInline var hasLocalIPv6: Bool
        @usableFromInline var mtu: Int
        @usableFromInline var hasPacedPeers: Bool

        @usableFromInline
        init(
            peers: UnsafeMutablePointer<Peer>, peerCount: Int, ipv4: PrefixTable<UInt32>,
            ipv6: PrefixTable<IPv6Address>, outer: PrefixTable<UInt32>, routes: ForwardingRoutes
        ) {
            self.peers = peers
            self.peerCount = peerCount
            self.ipv4 = ipv4
            self.ipv6 = ipv6
            self.outer = outer
            localIPv4 = routes.localIPv4 ?? IPv4Prefix(.any, length: 32)
            localIPv6 = routes.localIPv6 ?? IPv6Prefix(.any, length: 128)
            hasLocalIPv4 = routes.localIPv4 != nil
            hasLocalIPv6 = routes.localIPv6 != nil
            mtu = routes.mtu
            hasPacedPeers = routes.peers.contains { !$0.takesBursts }
        }
    }

    /// Builds a snapshot. Where two peers hold the same prefix the later one wins.
    public static func build(_ routes: ForwardingRoutes) -> ForwardingSnapshot {
        let peers = routes.peers.prefix(peerLimit)
        let places = UnsafeMutablePointer<Peer>.allocate(capacity: max(peers.count, 1))
        for (index, peer) in peers.enumerated() {
            (places + index).initialize(
                to: Peer(
                    endpoint: peer.endpoint, counterSlot: peer.counterSlot, isPaced: !peer.takesBursts))
        }

        var ipv4: [Int: [(UInt32, Int)]] = [:]
        var ipv6: [Int: [(IPv6Address, Int)]] = [:]
        var outer: [Int: [(UInt32, Int)]] = [:]
        for (index, peer) in peers.enumerated() {
            if let prefix = peer.ipv4 {
                ipv4[prefix.length, default: []].append((prefix.address.bits, index))
            }
            if let prefix = peer.ipv6 { ipv6[prefix.length, default: []].append((prefix.address, index)) }
            outer[32, default: []].append((peer.endpoint.address.bits, index))
        }
        let storage = UnsafeMutablePointer<Storage>.allocate(capacity: 1)
        storage.initialize(
            to: Storage(
                peers: places, peerCount: peers.count, ipv4: .build(ipv4), ipv6: .build(ipv6),
                outer: .build(outer), routes: routes))
        return ForwardingSnapshot(storage: storage)
    }

    @usableFromInline
    init(storage: UnsafeMutablePointer<Storage>) { self.storage = storage }

    /// Frees the memory; nobody may use the snapshot any more.
    public func deallocate() {
        storage.pointee.ipv4.deallocate()
        storage.pointee.ipv6.deallocate()
        storage.pointee.outer.deallocate()
        storage.pointee.peers.deallocate()
        storage.deallocate()
    }

    /// How many peers the snapshot holds.
    @inlinable
    public var peerCount: Int { storage.pointee.peerCount }

    /// The largest inner packet that is taken from peers, bytes.
    @inlinable @inline(__always)
    public var mtu: Int { storage.pointee.mtu }

    /// Where to send what is for a peer.
    @inlinable @inline(__always)
    public func endpoint(_ peer: PeerIndex) -> Endpoint { storage.pointee.peers[peer].endpoint }

    /// Where what is carried to and from a peer is counted.
    @inlinable @inline(__always)
    public func counterSlot(_ peer: PeerIndex) -> UInt16 { storage.pointee.peers[peer].counterSlot }

    /// Whether what goes to a peer is spread over time.
    @inlinable @inline(__always)
    public func isPaced(_ peer: PeerIndex) -> Bool { storage.pointee.peers[peer].isPaced }

    /// Whether there is such a peer.
    @inlinable @inline(__always)
    public var hasPacedPeers: Bool { storage.pointee.hasPacedPeers }

    /// The peer whose subnet holds an inner address; the longest prefix wins.
    @inlinable @inline(__always)
    public func peer(holding address: IPv4Address) -> PeerIndex? { storage.pointee.ipv4.find(address.bits) }

    /// The peer whose subnet holds an inner address; the longest prefix wins.
    @inlinable @inline(__always)
    public func peer(holding address: IPv6Address) -> PeerIndex? { storage.pointee.ipv6.find(address) }

    /// A peer with this underlay address (one of them, where several share it).
    @inlinable @inline(__always)
    public func peer(at underlay: IPv4Address) -> PeerIndex? { storage.pointee.outer.find(underlay.bits) }

    /// Whether an inner address belongs to this node's own subnet.
    @inlinable @inline(__always)
    public func isLocal(_ address: IPv4Address) -> Bool {
        storage.pointee.hasLocalIPv4 && storage.pointee.localIPv4.contains(address)
    }

    /// Whether an inner address belongs to this node's own subnet.
    @inlinable @inline(__always)
    public func isLocal(_ address: IPv6Address) -> Bool {
        storage.pointee.hasLocalIPv6 && storage.pointee.localIPv6.contains(address)
    }
}

/// What can be the key of a `PrefixTable`: a fixed-width address.
@usableFromInline
protocol PrefixKey: Equatable, BitwiseCopyable {
    func masked(to length: Int) -> Self
    var hash: UInt64 { get }
}

extension UInt32: PrefixKey {
    @inlinable @inline(__always)
    func masked(to length: Int) -> UInt32 { self & IPv4Prefix.mask(length: length) }
    // Fibonacci hashing: the upper bits of the product depend on all bits of the key.
    @inlinable @inline(__always)
    var hash: UInt64 { UInt64(self) &* 0x9E37_79B9_7F4A_7C15 }
}

extension IPv6Address: PrefixKey {
    @inlinable @inline(__always)
    func masked(to length: Int) -> IPv6Address { IPv6Prefix(self, length: length).address }
    @inlinable @inline(__always)
    var hash: UInt64 {
        (high &* 0x9E37_79B9_7F4A_7C15) ^ (low &* 0xC2B2_AE3D_27D4_EB4F) &* 0x9E37_79B9_7F4A_7C15
    }
}

/// Longest-prefix match: one open-addressing hash table for each prefix length in use, at most half full.
@frozen @usableFromInline
struct PrefixTable<Key: PrefixKey> {
    @frozen @usableFromInline
    struct Cell {
        @usableFromInline var key: Key
        /// The peer's place plus one; 0 where the cell is empty.
        @usableFromInline var value: UInt32
    }

    @frozen @usableFromInline
    struct Level {
        @usableFromInline var length: Int
        @usableFromInline var shift: UInt64
        @usableFromInline var mask: Int
        @usableFromInline var cells: UnsafeMutablePointer<Cell>
    }

    @usableFromInline var levels: UnsafeMutablePointer<Level>
    @usableFromInline var levelCount: Int

    static func build(_ entries: [Int: [(Key, Int)]]) -> PrefixTable {
        let levels = UnsafeMutablePointer<Level>.allocate(capacity: max(entries.count, 1))
        for (place, length) in entries.keys.sorted(by: >).enumerated() {
            let rows = entries[length]!
            var bits = 3
            while 1 << bits < rows.count * 2 { bits += 1 }
            let cells = UnsafeMutablePointer<Cell>.allocate(capacity: 1 << bits)
            cells.initialize(repeating: Cell(key: rows[0].0, value: 0), count: 1 << bits)
            let level = Level(length: length, shift: UInt64(64 - bits), mask: 1 << bits - 1, cells: cells)
            for (key, value) in rows {
                var index = Int(key.hash >> level.shift)
                while cells[index].value != 0 && cells[index].key != key { index = (index + 1) & level.mask }
                cells[index] = Cell(key: key, value: UInt32(value) + 1)
            }
            (levels + place).initialize(to: level)
        }
        return PrefixTable(levels: levels, levelCount: entries.count)
    }

    @inlinable @inline(__always)
    func find(_ address: Key) -> Int? {
        var place = 0
        while place < levelCount {
            let level = levels[place]
            let key = address.masked(to: level.length)
            var index = Int(truncatingIfNeeded: key.hash >> level.shift)
            while level.cells[index].value != 0 {
                if level.cells[index].key == key { return Int(level.cells[index].value) &- 1 }
                index = (index &+ 1) & level.mask
            }
            place &+= 1
        }
        return nil
    }

    func deallocate() {
        for place in 0..<levelCount { levels[place].cells.deallocate() }
        levels.deallocate()
    }
}
