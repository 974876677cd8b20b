public import Addresses
package import Backends
public import Health
public import Logging

/// What a node tells the others in its lease.
public struct NodeAnnouncement: Sendable, Hashable {
    /// Where peers send to: `PublicIP`; nil for a node without IPv4.
    public var publicAddress: IPv4Address?
    /// `PublicIPv6`: where peers send to in a network of IPv6 alone, and with vxlan and host-gw what is IPv6; nil for a
    /// node without IPv6.
    public var publicIPv6Address: IPv6Address?
    /// A port of this node's own (`BackendData.Port`); nil for the network configuration's.
    public var port: UInt16?
    /// The port on which the data plane takes in, which nodes of Kubernetes announce; nil before there is one, and where it
    /// is not announced.
    package var openPort: UInt16?
    /// The address that the node has on its underlay, where that is not `publicAddress`; nobody is told.
    public var underlayAddress: IPv4Address?
    /// The same for IPv6.
    public var underlayIPv6Address: IPv6Address?
    /// What the node is called, for people; nil for nothing.
    public var hostName: String?
    /// What was done on the machine for the network's backend, of which others are told; nil before it is.
    package var preparation: BackendPreparation?

    /// Makes an announcement.
    public init(
        publicAddress: IPv4Address?, publicIPv6Address: IPv6Address? = nil, port: UInt16? = nil,
        underlayAddress: IPv4Address? = nil, underlayIPv6Address: IPv6Address? = nil,
        hostName: String? = nil
    ) {
        self.publicAddress = publicAddress
        self.publicIPv6Address = publicIPv6Address
        self.port = port
        self.underlayAddress = underlayAddress
        self.underlayIPv6Address = underlayIPv6Address
        self.hostName = hostName
    }

    /// Where this node is reached, by others and by itself.
    package var addresses: [IPAddress] {
        let ipv4 = [publicAddress, underlayAddress].compactMap { $0.map(IPAddress.v4) }
        let ipv6 = [publicIPv6Address, underlayIPv6Address].compactMap { $0.map(IPAddress.v6) }
        return ipv4 + ipv6
    }

    /// The address of a family that others are told.
    package func address(_ family: AddressFamily) -> IPAddress? {
        switch family {
        case .ipv4: publicAddress.map { .v4($0) }
        case .ipv6: publicIPv6Address.map { .v6($0) }
        }
    }
}

/// How a node keeps its lease.
public struct LeaseOptions: Sendable, Hashable {
    /// What to do when another node has taken this node's subnet.
    public enum LossPolicy: Sendable, Hashable {
        /// Get another lease and go on.
        case reacquire
        /// End `LeaseKeeper.run` with `LeaseLost`, as flannel does.
        case exit
    }

    /// Tells this node from another with the same address.
    public var identity: NodeIdentity
    /// The subnet of the last run, from `subnet.env`.
    public var previousSubnet: LeaseSubnet?
    /// How long a lease lives without a renewal; flannel's is 24 hours.
    public var timeToLive: Duration = .seconds(86_400)
    /// How long before its end a lease is renewed; flannel's is 60 minutes.
    public var renewalMargin: Duration = .seconds(3_600)
    /// What to do when the subnet is lost.
    public var lossPolicy = LossPolicy.reacquire
    /// What was wrong with the identity when it was read, if it was; shown until the node has had a lease for a
    /// minute.
    public var identityProblem: Problem?

    /// Makes options with flannel's values.
    public init(identity: NodeIdentity) { self.identity = identity }
}

/// Another node has this node's subnet, and the node was told to end rather than take another.
public struct LeaseLost: Error, Sendable, CustomStringConvertible {
    /// Which subnet, and who has it.
    public let description: String

    init(description: String) { self.description = description }

    /// Makes an error.
    ///
    /// - Parameter description: which subnet, and who has it.
    package init(_ description: String) { self.description = description }
}

/// Keeps a node's lease in a store and follows its peers: `LeaseMachine` decides, this carries out.
public actor LeaseKeeper: PeerSource, SubnetClaim {
    /// What the store says of the network, as it changes.
    public nonisolated let networks: AsyncStream<KnownNetwork>
    /// The subnet of the lease that this node has, as it changes.
    public nonisolated let subnets: AsyncStream<OwnLease?>

    private let networksContinuation: AsyncStream<KnownNetwork>.Continuation
    private let subnetsContinuation: AsyncStream<OwnLease?>.Continuation
    private var network = KnownNetwork()
    private var ownLease: OwnLease?
    private let store: any LeaseReading & LeaseWriting
    private let identityChanged: @Sendable (NodeIdentity) async -> Void
    private let logger: Logger
    private let heartbeat: @Sendable () -> Void
    private let clock = ContinuousClock()
    private var machine: LeaseMachine
    private var identity: NodeIdentity

    private let inbox = Inbox<LeaseMachine.Input>(.timer)
    private var request: Task<Void, Never>?
    private var watch: Task<Void, Never>?
    private var timer: Task<Void, Never>?

    /// Makes a keeper; nothing happens before `run`.
    ///
    /// - Parameters:
    ///   - store: where the network's configuration and the leases are.
    ///   - announcement: what the lease tells the other nodes.
    ///   - options: how the lease is kept.
    ///   - logger: takes one line for each event, with stable field names; nothing is repeated.
    ///   - identityChanged: keeps another identity for the next start: this node's was found to be another node's.
    ///   - heartbeat: called each time that everything that had happened was dealt with.
    public init(
        store: any LeaseReading & LeaseWriting, announcement: NodeAnnouncement, options: LeaseOptions,
        logger: Logger,
        identityChanged: @escaping @Sendable (NodeIdentity) async -> Void = { _ in },
        heartbeat: @escaping @Sendable () -> Void = {}
    ) {
        self.heartbeat = heartbeat
        self.store = store
        self.identityChanged = identityChanged
        self.logger = logger
        identity = options.identity
        machine = LeaseMachine(
            storeName: store.name, announcement: announcement, options: options,
            seed: .random(in: 0...UInt64.max), now: clock.now)
        (networks, networksContinuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
        (subnets, subnetsContinuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
    }

    /// Runs until its task is cancelled; the lease stays in the store, for the next start to find. Once only.
    ///
    /// - Throws: `LeaseLost`, with the policy `exit` only. Whatever a store does ends nothing.
    public func run() async throws(LeaseLost) {
        defer {
            for task in [request, watch, timer] { task?.cancel() }
            networksContinuation.finish()
            subnetsContinuation.finish()
        }
        while true {
            let arrived = await inbox.takeAll()
            if Task.isCancelled { return }
            timer?.cancel()
            for action in machine.handle(arrived, now: clock.now) {
                if case .end(let reason) = action { throw LeaseLost(description: reason) }
                carryOut(action)
            }
            heartbeat()
        }
    }

    /// Asks for a heartbeat: the loop goes round once, for nothing else.
    public func poke() { inbox.post(.timer) }

    /// Announces another address or port from now on; the lease is rewritten, the subnet stays.
    public func announce(_ announcement: NodeAnnouncement) async {
        await store.addressChanged()
        inbox.post(.announce(announcement))
    }

    private func carryOut(_ action: LeaseMachine.Action) {
        switch action {
        case .readSnapshot:
            request = Task { [store, inbox] in
                do throws(LeaseStoreError) {
                    let snapshot = try await store.snapshot()
                    inbox.post(.snapshot(.success(snapshot)))
                } catch {
                    inbox.post(.snapshot(.failure(error)))
                }
            }
        case .changeIdentity(let identity):
            self.identity = identity
            Task { [identityChanged] in await identityChanged(identity) }
        case .write(let write):
            request = Task { [identity, inbox] in
                do throws(LeaseStoreError) {
                    let result = try await self.perform(write, as: identity)
                    inbox.post(.written(write, .success(result)))
                } catch {
                    inbox.post(.written(write, .failure(error)))
                }
            }
        case .watch(let position, let number):
            watch?.cancel()
            watch = Task { [store, inbox] in
                do {
                    for try await update in store.watch(after: position) {
                        inbox.post(.update(update, watch: number))
                    }
                    inbox.post(.watchEnded(LeaseStoreError(.unreachable, "the watch ended"), watch: number))
                } catch let error as LeaseStoreError {
                    inbox.post(.watchEnded(error, watch: number))
                } catch {
                    inbox.post(.watchEnded(LeaseStoreError(.failed, "\(error)"), watch: number))
                }
            }
        case .wake(let instant):
            wake(at: instant)
        case .publish(let table):
            tell(table)
        case .report(let report):
            logger.log(
                level: report.level, report.event,
                metadata: report.fields.mapValues { .string($0) })
        case .end:
            break
        }
    }

    private func tell(_ table: PeerTable) {
        let network = KnownNetwork(table)
        if network != self.network {
            self.network = network
            networksContinuation.yield(network)
        }
        if table.ownLease != ownLease {
            ownLease = table.ownLease
            subnetsContinuation.yield(ownLease)
        }
    }

    private func perform(
        _ write: LeaseMachine.Write, as identity: NodeIdentity
    ) async throws(LeaseStoreError) -> StoreWriteResult {
        switch write {
        case .create(let key, let value, let timeToLive):
            try await store.create(key: key, value: value, timeToLive: timeToLive, holder: identity)
        case .renew(let key, let value, let timeToLive, let version):
            try await store.renew(
                key: key, value: value, timeToLive: timeToLive, holder: identity, version: version)
        case .delete(let key, let version):
            try await store.delete(key: key, version: version)
        }
    }
}

// MARK: - Time

extension LeaseKeeper {
    private func wake(at instant: ContinuousClock.Instant) {
        timer?.cancel()
        timer = Task { [clock, inbox] in
            guard (try? await clock.sleep(until: instant)) != nil else { return }
            inbox.post(.timer)
        }
    }
}
