// How it works. A snapshot is one block of memory that never changes after it was built: a list of peers, and for
// each address family a longest-prefix table made of one open-addressing hash table for each prefix length in use,
// longest first. Networks use one length, or two, so a look-up is one multiply and about one cache line. The peers'
// underlay addresses have a table for each family too. What is looked at for each packet of a peer lies apart from
// its endpoint, which is read once for each message. The publication that replaces snapshots under the workers is in
// ForwardingPublication.swift.

import Addresses

/// An immutable forwarding table: which peer holds an inner address, and whether an outer address is a peer's.
///
/// A snapshot refers to memory that `build` allocated and `deallocate` frees; copies refer to the same memory.
@frozen
public struct ForwardingSnapshot: @unchecked Sendable {
    @usableFromInline let storage: UnsafeMutablePointer<Storage>

    /// A peer's place in the snapshot, 0 to 65,535.
    public typealias PeerIndex = Int

    /// More peers than this are left out by `build`: a place fits 16 bits, and each costs 30 bytes and two
    /// to four hash cells.
    public static let peerLimit = 65_536

    // 6 bytes.
    @frozen @usableFromInline
    struct Peer {
        @usableFromInline var counterSlot: UInt16
        /// The peer that is found at this one's underlay address: itself, or one that shares it.
        @usableFromInline var addressHolder: UInt16
        /// Whether what goes to it is spread over time.
        @usableFromInline var isPaced: Bool
    }

    @frozen @usableFromInline
    struct Storage {
        @usableFromInline var generation: UInt64
        @usableFromInline var peers: UnsafeMutablePointer<Peer>
        @usableFromInline var endpoints: UnsafeMutablePointer<Endpoint>
        @usableFromInline var peerCount: Int
        @usableFromInline var ipv4: PrefixTable<UInt32>
        @usableFromInline var ipv6: PrefixTable<IPv6Address>
        @usableFromInline var outerIPv4: PrefixTable<UInt32>
        @usableFromInline var outerIPv6: PrefixTable<IPv6Address>
        @usableFromInline var localIPv4: IPv4Prefix
        @usableFromInline var localIPv6: IPv6Prefix
        @usableFromInline var hasLocalIPv4: Bool
        @usableFromInline var hasLocalIPv6: Bool
        @usableFromInline var mtu: Int
        @usableFromInline var hasPacedPeers: Bool
    }

    /// Builds a snapshot. Where two peers hold the same prefix the later one wins.
    ///
    /// - Parameters:
    ///   - routes: at most `peerLimit` peers of them are used.
    ///   - generation: tells snapshots of one publication apart: a peer's place means nothing in another one.
    public static func build(_ routes: ForwardingRoutes, generation: UInt64 = 0) -> ForwardingSnapshot {
        let used = routes.peers.prefix(peerLimit)
        let peers = UnsafeMutablePointer<Peer>.allocate(capacity: max(used.count, 1))
        let endpoints = UnsafeMutablePointer<Endpoint>.allocate(capacity: max(used.count, 1))
        var ipv4: [Int: [(UInt32, Int)]] = [:]
        var ipv6: [Int: [(IPv6Address, Int)]] = [:]
        var outerIPv4: [Int: [(UInt32, Int)]] = [:]
        var outerIPv6: [Int: [(IPv6Address, Int)]] = [:]
        for (index, peer) in used.enumerated() {
            if let prefix = peer.ipv4 {
                ipv4[prefix.length, default: []].append((prefix.address.bits, index))
            }
            if let prefix = peer.ipv6 { ipv6[prefix.length, default: []].append((prefix.address, index)) }
            switch peer.endpoint.address {
            case .v4(let address): outerIPv4[32, default: []].append((address.bits, index))
            case .v6(let address): outerIPv6[128, default: []].append((address, index))
            }
            (endpoints + index).initialize(to: peer.endpoint)
        }
        let storage = UnsafeMutablePointer<Storage>.allocate(capacity: 1)
        storage.initialize(
            to: Storage(
                generation: generation, peers: peers, endpoints: endpoints, peerCount: used.count,
                ipv4: .build(ipv4), ipv6: .build(ipv6), outerIPv4: .build(outerIPv4),
                outerIPv6: .build(outerIPv6),
                localIPv4: routes.localIPv4 ?? IPv4Prefix(.any, length: 32),
                localIPv6: routes.localIPv6 ?? IPv6Prefix(.any, length: 128),
                hasLocalIPv4: routes.localIPv4 != nil, hasLocalIPv6: routes.localIPv6 != nil,
                mtu: routes.mtu, hasPacedPeers: used.contains { !$0.takesBursts }))
        let snapshot = ForwardingSnapshot(storage: storage)
        for (index, peer) in used.enumerated() {
            // checked: below `peerLimit`, and its address was entered above.
            let holder = UInt16(truncatingIfNeeded: snapshot.peer(at: peer.endpoint.address) ?? index)
            (peers + index).initialize(
                to: Peer(
                    counterSlot: peer.counterSlot, addressHolder: holder, isPaced: !peer.takesBursts))
        }
        return snapshot
    }

    @usableFromInline
    init(storage: UnsafeMutablePointer<Storage>) { self.storage = storage }

    /// Frees the memory; nobody may use the snapshot any more.
    public func deallocate() {
        storage.pointee.ipv4.deallocate()
        storage.pointee.ipv6.deallocate()
        storage.pointee.outerIPv4.deallocate()
        storage.pointee.outerIPv6.deallocate()
        storage.pointee.peers.deallocate()
        storage.pointee.endpoints.deallocate()
        storage.deallocate()
    }

    /// Tells this snapshot from others of its publication: peers' places of one mean nothing in another.
    @inlinable @inline(__always)
    public var generation: UInt64 { storage.pointee.generation }

    /// How many peers the snapshot holds.
    @inlinable
    public var peerCount: Int { storage.pointee.peerCount }

    /// The largest inner packet that is taken from peers, bytes.
    @inlinable @inline(__always)
    public var mtu: Int { storage.pointee.mtu }

    /// Where to send what is for a peer.
    @inlinable @inline(__always)
    public func endpoint(_ peer: PeerIndex) -> Endpoint { storage.pointee.endpoints[peer] }

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
    public func peer(at underlay: IPAddress) -> PeerIndex? {
        switch underlay {
        case .v4(let address): storage.pointee.outerIPv4.find(address.bits)
        case .v6(let address): storage.pointee.outerIPv6.find(address)
        }
    }

    /// Whether a peer has the underlay address that `holder` was found at by `peer(at:)`. A compare of two numbers,
    /// whatever the address's family.
    @inlinable @inline(__always)
    public func isAtAddress(of holder: PeerIndex, _ peer: PeerIndex) -> Bool {
        Int(storage.pointee.peers[peer].addressHolder) == holder
    }

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
