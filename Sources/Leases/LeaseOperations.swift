public import Addresses

/// What a person does to a store by hand: `twilld lease …` and `twilld network …`.
public struct LeaseOperations: Sendable {
    let store: any LeaseStore

    /// Operates on a store.
    public init(store: any LeaseStore) { self.store = store }

    /// One line of `twilld lease list`.
    public struct Listing: Sendable, Hashable {
        /// The key as the store has it.
        public var key: String
        /// The value as the store has it.
        public var value: String
        /// Where its peers send to, where the entry names it; the port is the configuration's unless its own.
        public var endpoint: Endpoint?
        /// Whether it has no time to live.
        public var isReservation: Bool
        /// How long it lives unless renewed, where the store tells.
        public var remaining: Duration?
        /// Why no node uses it as a peer; nil where all is well.
        public var problem: String?
    }

    /// Every lease and reservation, ordered by key.
    public func list() async throws -> [Listing] { fatalError() }

    /// Keeps a subnet for the node that announces `publicAddress`; it has no time to live.
    ///
    /// - Throws: `LeaseOperationError` where the subnet does not fit the network or somebody has it.
    public func reserve(_ subnet: LeaseSubnet, publicAddress: IPv4Address) async throws { fatalError() }

    /// Deletes a lease or a reservation. A running node that holds it registers again.
    public func release(_ subnet: LeaseSubnet) async throws { fatalError() }

    /// The network configuration as it stands, and what it means.
    public func network() async throws -> (json: String, configuration: NetworkConfiguration) { fatalError() }

    /// Checks a network configuration and writes it.
    ///
    /// - Returns: what running nodes do not take over until they are restarted, one sentence each.
    public func setNetwork(_ json: String) async throws -> [String] { fatalError() }
}

/// Why an operation was not done.
public struct LeaseOperationError: Error, Sendable, CustomStringConvertible {
    /// One sentence for an operator.
    public let description: String
}
