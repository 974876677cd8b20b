public import Seeded

/// What ought to be in a network under disturbances: who has which subnet and address, and what the store holds.
/// Whoever plays a deck writes here what it did, and compares what is with this.
///
/// A subnet is written as its lease's key has it: `100.96.5.0-24`.
public struct DisturbedNetwork: Sendable {
    /// Of the overlay.
    public static let network = "100.96.0.0/16"
    /// Of the tunnel, before a configuration names another one.
    public static let firstPort = 8285
    /// The last numbers of the addresses that foreign nodes announce, which the underlay has, so that what is sent to
    /// them can be seen.
    public static let sinks = 201...220
    /// The third numbers of foreign subnets: beyond the first hundred, which nodes choose from.
    public static let foreignSubnets = 120..<250
    /// The entry that is no lease.
    public static let malformedKey = "100.96.252.0-24"
    /// What stands there.
    public static let malformedValue = "no JSON at all"
    private static let foreignLimit = 60
    /// Deletions within this time are one event to a node, which holds peers that go in one such by more than half.
    private static let deletionWindow = Duration.seconds(11)

    /// One of the nodes.
    public struct Node: Sendable {
        /// Counted from 1.
        public let number: Int
        /// The last number of its underlay address.
        public fileprivate(set) var hostNumber: Int
        /// Its subnet; empty before it has one.
        public var subnet = ""
        /// Whether its daemon is to run and its lease to be in the store.
        public var isPresent = true

        /// Its underlay address.
        public var address: String { DisturbedNetwork.address(hostNumber) }
    }

    /// All of them, the first at index 0.
    public private(set) var nodes: [Node]
    /// The addresses of foreign leases by their subnets.
    public private(set) var foreign: [String: String] = [:]
    /// Whether the entry that is no lease is there.
    public var hasMalformedEntry = false
    /// Of the tunnel.
    public var port = firstPort

    /// After this time every node has found that a store lost its data, and the nodes that it lost are in it again.
    private static let lossTime = Duration.seconds(15)
    private var deletions: [ContinuousClock.Instant] = []
    private var lastLoss: ContinuousClock.Instant?
    private let makeConfiguration: @Sendable (Int) -> String

    /// A network of nodes that have no subnet yet.
    ///
    /// - Parameter configuration: the network's configuration with a port; nil for subnets of 24 bits.
    public init(nodes count: Int, configuration: (@Sendable (Int) -> String)? = nil) {
        makeConfiguration =
            configuration ?? {
                #"{"Network":"\#(Self.network)","SubnetLen":24,"Backend":{"Type":"udp","Port":\#($0)}}"#
            }
        nodes = (1...count).map { Node(number: $0, hostNumber: 100 + $0) }
    }

    /// Node `number`, counted from 1.
    public subscript(number: Int) -> Node {
        get { nodes[number - 1] }
        set { nodes[number - 1] = newValue }
    }

    /// The nodes whose daemons are to run.
    public var present: [Node] { nodes.filter(\.isPresent) }

    /// The network's configuration.
    public var configuration: String { makeConfiguration(port) }

    /// An address of the underlay.
    public static func address(_ hostNumber: Int) -> String { "172.20.32.\(hostNumber)" }

    /// The value of a lease of a node at an address.
    public static func value(_ address: String) -> String { #"{"PublicIP":"\#(address)"}"# }
}

// MARK: - What ought to be seen

extension DisturbedNetwork {
    /// The endpoints of the peers that a node is to have, by their subnets.
    public func peers(of number: Int) -> [String: String] {
        var peers = foreign.mapValues { "\($0):\(port)" }
        for node in present where node.number != number { peers[node.subnet] = "\(node.address):\(port)" }
        return peers
    }

    /// One line for each entry that the store is to hold: the key, the address, and whether it ends with a lease.
    public var entries: [String] {
        var lines = foreign.map { Self.entry($0.key, $0.value, isLeased: false) }
        lines += present.map { Self.entry($0.subnet, $0.address, isLeased: true) }
        if hasMalformedEntry { lines.append(Self.entry(Self.malformedKey, nil, isLeased: false)) }
        return lines.sorted()
    }

    /// The line of an entry.
    ///
    /// - Parameter address: nil where the entry is no lease.
    public static func entry(_ key: String, _ address: String?, isLeased: Bool) -> String {
        "\(key) \(address ?? "malformed") \(isLeased ? "leased" : "kept")"
    }

    /// What differs, the first four lines of it; nil where nothing does.
    public static func difference(expected: [String], actual: [String]) -> String? {
        guard expected.sorted() != actual.sorted() else { return nil }
        let missing = actual.reduce(into: expected) { rest, line in
            if let place = rest.firstIndex(of: line) { rest.remove(at: place) }
        }
        let surplus = expected.reduce(into: actual) { rest, line in
            if let place = rest.firstIndex(of: line) { rest.remove(at: place) }
        }
        let lines = missing.sorted().map { "missing: \($0)" } + surplus.sorted().map { "there is: \($0)" }
        return lines.prefix(4).joined(separator: "; ")
    }
}

// MARK: - What is done

extension DisturbedNetwork {
    /// Gives a node another address of the underlay, as a DHCP server may.
    public mutating func changeAddress(of number: Int) {
        self[number].hostNumber = (self[number].hostNumber + 10 - 100) % 90 + 100
    }

    /// Draws new foreign leases.
    ///
    /// - Parameter count: as many, but for those that fall on one that there is.
    /// - Returns: their subnets, in the order in which they were drawn.
    public mutating func addForeign(_ count: Int, _ dice: inout SeededRandom) -> [String] {
        var keys: [String] = []
        for _ in 0..<count where foreign.count < Self.foreignLimit {
            let third = Self.foreignSubnets.lowerBound + dice.below(Self.foreignSubnets.count)
            let key = "100.96.\(third).0-24"
            guard foreign[key] == nil else { continue }
            setForeign(key, &dice)
            keys.append(key)
        }
        return keys
    }

    /// Gives a foreign lease an address that is drawn.
    public mutating func setForeign(_ key: String, _ dice: inout SeededRandom) {
        foreign[key] = Self.address(Self.sinks.lowerBound + dice.below(Self.sinks.count))
    }

    /// Notes that the store came back without some of its data. What a node does not find in it then it holds,
    /// whoever deleted it.
    public mutating func noteLoss(now: ContinuousClock.Instant) { lastLoss = now }

    /// Notes that entries are going to be deleted. Nodes doubt a store that loses more than half of its entries at
    /// once, and hold their peers, however it came to that: so deletions that would be too many wait for those
    /// before.
    ///
    /// - Parameters:
    ///   - count: of entries that nodes know.
    ///   - lasting: how long after they begin the last of them is gone.
    /// - Returns: how long to wait before they begin.
    public mutating func reserveDeletions(
        _ count: Int, lasting: Duration = .zero, now: ContinuousClock.Instant
    ) -> Duration {
        deletions.removeAll { $0 + Self.deletionWindow <= now }
        let known = foreign.count + present.count - 1
        var begin = max(now, lastLoss.map { $0 + Self.lossTime } ?? now)
        while deletions.count + count > max(1, known / 2), let first = deletions.first {
            begin = max(begin, first + Self.deletionWindow)
            deletions.removeFirst()
        }
        deletions += Array(repeating: begin + lasting, count: count)
        deletions.sort()
        return begin - now
    }

    /// How many leases may come and go together, as nodes doubt a store that loses more than half of its entries.
    public var passingLeases: Int { foreign.count + present.count - 1 }

    /// Draws foreign leases that go; never more than a third of all peers.
    ///
    /// - Returns: their subnets.
    public mutating func removeForeign(_ dice: inout SeededRandom) -> [String] {
        let known = foreign.count + nodes.count - 1
        var keys: [String] = []
        for key in foreign.keys.sorted() where dice.oneIn(2) && (keys.count + 1) * 3 <= known {
            foreign[key] = nil
            keys.append(key)
        }
        return keys
    }

    /// Draws foreign leases that move to other addresses.
    ///
    /// - Returns: their subnets.
    public mutating func moveForeign(_ dice: inout SeededRandom) -> [String] {
        let keys = foreign.keys.sorted().filter { _ in dice.oneIn(3) }
        for key in keys { setForeign(key, &dice) }
        return keys
    }

    /// Forgets foreign leases, which end by themselves.
    public mutating func forgetForeign(_ keys: [String]) { for key in keys { foreign[key] = nil } }
}
