import Counters
import Forwarding

/// What was carried to and from each peer since it was first published.
public struct PeerTotals: Sendable {
    /// Of each peer that is counted by itself.
    public var peers: [PeerSubnets: PeerCounts] = [:]
    /// Of all others together.
    public var others = PeerCounts()

    /// Nothing carried.
    public init() {}
}

/// Which slot of the `PeerCounterBlock`s counts which peer. A peer keeps its slot for as long as it is published,
/// whatever becomes of its address.
///
/// Nobody but the workers may write to a slot, so one that is given to another peer is not cleared: what it counted
/// before is remembered and taken off. Slots are reused first in, first out, which is the grace period for a worker
/// that still has a packet for the former peer: it has very likely sent it by then. That is not guaranteed, and least
/// of all while nearly all slots are in use; a packet is then counted for the wrong peer, and nothing else happens.
struct PeerSlots {
    private struct Place {
        var slot: UInt16
        var before: PeerCounts
        var publication: UInt64
    }

    private var places: [PeerSubnets: Place] = [:]
    private var neverUsed = 0
    private var free: [UInt16] = []
    private var publication: UInt64 = 0

    /// Gives each peer its slot.
    ///
    /// - Parameter counts: what a slot counts now.
    mutating func assign(to peers: inout [ForwardingPeer], counts: (UInt16) -> PeerCounts) {
        publication &+= 1
        var newcomers: [Int] = []
        for index in peers.indices {
            let subnets = peers[index].subnets
            if let place = places[subnets] {
                peers[index].counterSlot = place.slot
                places[subnets]?.publication = publication
            } else {
                newcomers.append(index)
            }
        }
        for (subnets, place) in places where place.publication != publication {
            places[subnets] = nil
            free.append(place.slot)
        }
        var taken = 0
        for index in newcomers {
            var slot = PeerCounterBlock.sharedSlot
            if neverUsed < PeerCounterBlock.peerLimit {
                slot = UInt16(truncatingIfNeeded: neverUsed)
                neverUsed += 1
            } else if taken < free.count {
                slot = free[taken]
                taken += 1
            }
            peers[index].counterSlot = slot
            guard slot != PeerCounterBlock.sharedSlot else { continue }
            places[peers[index].subnets] = Place(slot: slot, before: counts(slot), publication: publication)
        }
        free.removeFirst(taken)
    }

    /// What was carried to and from each peer.
    func totals(counts: (UInt16) -> PeerCounts) -> PeerTotals {
        var totals = PeerTotals()
        totals.peers.reserveCapacity(places.count)
        for (subnets, place) in places { totals.peers[subnets] = counts(place.slot).since(place.before) }
        totals.others = counts(PeerCounterBlock.sharedSlot)
        return totals
    }
}
