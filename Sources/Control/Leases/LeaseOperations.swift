public import Addresses
internal import Backends
import Health

/// What a person does to a store by hand: `twilld lease …` and `twilld network …`.
public struct LeaseOperations: Sendable {
    private let store: any LeaseStore

    /// Operates on a store.
    public init(store: any LeaseStore) { self.store = store }

    /// One line of `twilld lease list`.
    public struct Listing: Sendable, Hashable {
        /// The key as the store has it.
        public var key: String
        /// The value as the store has it.
        public var value: String
        /// Where its peers send to, where the entry names it.
        public var endpoint: Endpoint?
        /// What its node is called; nil where the entry does not tell.
        public var name: String?
        /// The node that holds it; nil where flanneld or a person wrote it.
        public var holder: NodeIdentity?
        /// Whether it has no time to live.
        public var isReservation: Bool
        /// How long it lives unless renewed, where the store tells.
        public var remaining: Duration?
        /// Why no node uses it as a peer; nil where all is well.
        public var problem: String?
    }

    /// Every lease and reservation, ordered by subnet; entries whose key is none come last.
    ///
    /// - Throws: `LeaseStoreError`.
    public func list() async throws -> [Listing] {
        let snapshot = try await store.snapshotWithRemainingTimes()
        let configuration = snapshot.configuration.flatMap { try? NetworkConfiguration(parsing: $0) }
        let family = configuration?.underlayFamily ?? .ipv4
        let port = configuration?.backend.port ?? BackendRegistry.all.usual.init().port
        let now = ContinuousClock.now
        let records = snapshot.entries.map { LeaseRegister.Record($0, backends: .all, now: now) }.sorted {
            switch ($0.subnet, $1.subnet) {
            case (let left?, let right?): left != right ? left < right : $0.entry.key < $1.entry.key
            case (nil, nil): $0.entry.key < $1.entry.key
            case (let left, _): left != nil
            }
        }
        return records.map { record in
            var problem: String?
            if let configuration, case .failure(let error) = record.peer(in: configuration) {
                problem = error.description
            }
            var remaining: Duration?
            if case .expiring(let left) = record.entry.lifetime { remaining = left }
            return Listing(
                key: record.entry.key, value: record.entry.value,
                endpoint: record.endpoint(family, defaultPort: port),
                name: (try? record.value.get())?.hostName,
                holder: record.entry.holder, isReservation: record.isReservation, remaining: remaining,
                problem: problem)
        }
    }

    /// Keeps a subnet for the node that announces `publicAddress`; it has no time to live. Where that node has the
    /// subnet already, its lease becomes the reservation.
    ///
    /// - Throws: `LeaseOperationError` where the subnet does not fit the network, somebody has it, or the node has
    ///   a reservation already; `LeaseStoreError`.
    public func reserve(_ subnet: LeaseSubnet, publicAddress: IPAddress) async throws {
        let snapshot = try await store.snapshot()
        let configuration = try parse(snapshot.configuration)
        guard configuration.admits(subnet) else {
            throw LeaseOperationError(
                "\(subnet) is no subnet of this network: \(configuration.neededSubnet) is needed")
        }
        let family = configuration.underlayFamily
        guard publicAddress.addressFamily == family else {
            throw LeaseOperationError(
                "\(publicAddress) names no node of this network: it is of \(family), and an \(family) address is needed"
            )
        }
        let now = ContinuousClock.now
        let records = snapshot.entries.map { LeaseRegister.Record($0, backends: .all, now: now) }
        var held: StoreEntry?
        for record in records {
            let address = record.endpoint(family, defaultPort: 0)?.address
            if record.subnet == subnet, !record.isReservation, address == publicAddress {
                held = record.entry
            } else if record.subnet?.overlaps(subnet) ?? false {
                throw LeaseOperationError(
                    "\(record.entry.key.printable) is \(record.isReservation ? "reserved" : "leased") to"
                        + " \(address.map { "\($0)" } ?? "a node that it does not name")"
                        + "; release it first: twilld lease release \(record.subnet.map { "\($0)" } ?? "")")
            }
            if record.isReservation, address == publicAddress {
                throw LeaseOperationError(
                    "\(publicAddress) has a reservation already, \(record.entry.key.printable)")
            }
        }
        let value = LeaseValue(
            publicAddress: publicAddress.v4, publicIPv6Address: publicAddress.v6,
            backend: type(of: configuration.backend))
        let result =
            if let held {
                // Its value stays: it may announce a port of the node's own.
                try await store.renew(
                    key: held.key, value: held.value, timeToLive: nil, holder: held.holder ?? .random(),
                    version: held.version)
            } else {
                try await store.create(key: subnet.key, value: value.json, timeToLive: nil, holder: nil)
            }
        if result == .refused {
            throw LeaseOperationError(
                "\(subnet) was taken by somebody else just now; look at it: twilld lease list")
        }
    }

    /// Deletes a lease or a reservation. A running node that holds it registers again.
    ///
    /// - Throws: `LeaseOperationError` where there is none; `LeaseStoreError`.
    public func release(_ subnet: LeaseSubnet) async throws {
        for _ in 0..<3 {
            guard let entry = try await store.snapshot().entries.first(where: { $0.key == subnet.key }) else {
                throw LeaseOperationError(
                    "there is no lease of \(subnet); see what there is: twilld lease list")
            }
            if try await store.delete(key: entry.key, version: entry.version) != .refused { return }
        }
        throw LeaseOperationError("the lease of \(subnet) keeps changing; try again")
    }

    /// The network configuration as it stands, and what it means.
    ///
    /// - Throws: `LeaseOperationError` where there is none, `NetworkConfigurationError` where it is wrong;
    ///   `LeaseStoreError`.
    public func network() async throws -> (json: String, configuration: NetworkConfiguration) {
        let json = try await store.snapshot().configuration
        return (json ?? "", try parse(json))
    }

    /// Checks a network configuration and writes it.
    ///
    /// - Returns: what is odd, one sentence each: keys that no daemon knows, leases that it does not admit.
    /// - Throws: `NetworkConfigurationError` where it is wrong or has a key twice, and nothing is written then;
    ///   `LeaseStoreError`.
    @discardableResult
    public func setNetwork(_ json: String) async throws -> [String] {
        let configuration = try NetworkConfiguration(parsing: json)
        let remarks = try NetworkConfiguration.remarks(on: json)
        // First, since it may be what makes the store.
        try await store.setConfiguration(json)
        let entries = try await store.snapshot().entries
        return remarks
            + entries.sorted { $0.key < $1.key }.compactMap { entry in
                guard let subnet = LeaseSubnet(key: entry.key), !configuration.admits(subnet) else {
                    return nil
                }
                return
                    "\(subnet) is no longer a subnet of the network: its node keeps it until it is restarted"
            }
    }

    private func parse(_ json: String?) throws -> NetworkConfiguration {
        guard let json else {
            throw LeaseOperationError(
                "\(store.name) has no network configuration; write one: echo '{\"Network\": \"10.66.0.0/16\"}' | twilld network set -"
            )
        }
        return try NetworkConfiguration(parsing: json)
    }
}

extension NetworkConfiguration {
    /// What a node's subnet is like: `a /24 from 10.66.1.0 to 10.66.255.0`.
    fileprivate var neededSubnet: String {
        let sides = [
            ipv4.map { "a /\($0.subnetLength) from \($0.subnetMinimum) to \($0.subnetMaximum)" },
            ipv6.map { "a /\($0.subnetLength) from \($0.subnetMinimum) to \($0.subnetMaximum)" },
        ].compactMap(\.self)
        guard sides.count == 2 else { return sides.joined() }
        return sides.joined(separator: " and ") + ", written with & between them,"
    }
}

/// Why an operation was not done.
public struct LeaseOperationError: Error, Sendable, CustomStringConvertible {
    /// One sentence for an operator.
    public let description: String

    init(_ description: String) { self.description = description }
}
