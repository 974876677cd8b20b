import Addresses

/// How this node stands to a subnet of its own.
enum OwnSubnet {
    /// It has none and looks for one.
    case sought(Search)
    /// It has one.
    case held(Holding)
    /// It lost the one that it had, and the operator wants it to end then.
    case ended

    typealias Instant = ContinuousClock.Instant

    /// What is known of a search beside what the store's entries say.
    struct Search {
        /// Subnets that others were faster to take, until the watch or a snapshot tells so itself.
        var taken: Set<LeaseSubnet> = []
        /// Whether the store was read anew once to see who has the subnet of the last run, which somebody was faster to take.
        var isWantedLookedAt = false
        /// Until when nothing is tried, since no subnet was free.
        var pausedUntil: Instant?
        /// The entry that is about to be taken over, as it was.
        var adopting: Adoption?
    }

    /// The lease that this node has.
    struct Holding {
        /// For how long.
        enum Term {
            /// For good: a reservation, which is not renewed.
            case reservation
            case lease(expiry: Instant, renewAt: Instant)
        }

        var subnet: LeaseSubnet
        /// What the lease announces.
        var endpoint: Endpoint
        var acquired: Instant
        var renewed: Instant
        var term: Term
        /// The subnet that it replaces.
        var replaced: LeaseSubnet?
        /// Whether the entry may say something else than this node would write.
        var isRewriteWanted = false
        /// Whose it seemed to be before this run took it over.
        var adoption: Adoption?

        var key: String { subnet.key }

        var isReservation: Bool {
            if case .reservation = term { true } else { false }
        }

        /// When it is to be renewed; nil for a reservation.
        var renewAt: Instant? {
            if case .lease(_, let renewAt) = term { renewAt } else { nil }
        }

        /// What others are told of it.
        var lease: OwnLease {
            var expiry: Instant?
            if case .lease(let end, _) = term { expiry = end }
            return OwnLease(
                subnet: subnet, endpoint: endpoint, isReservation: isReservation, acquired: acquired,
                renewed: renewed, expiry: expiry, replaced: replaced)
        }
    }

    /// What an entry was before this node took it over.
    struct Adoption: Equatable {
        var key: String
        /// The address that it announced, where that was not this node's.
        var address: IPAddress?
        /// The identity that it had, where that was not this node's.
        var holder: NodeIdentity?
    }

    /// What this node remembers of subnets that it does not have now.
    struct Memory {
        /// The one that it had last, be it in its last run: sought before any other.
        var wanted: LeaseSubnet?
        /// The subnet of the last run, until this node has had a lease: with this node's address it is evidence.
        var evidence: LeaseSubnet?
        /// The one that another node took.
        var replaced: LeaseSubnet?
        /// Those that turned out to be a node's that is alive.
        var yielded: Set<LeaseSubnet> = []

        init(previous: LeaseSubnet?) {
            wanted = previous
            evidence = previous
        }
    }
}
