// How it works. Beside the workers, two programs in the kernel forward what is small and sparse (the C in CKernelForwarding
// says which packets, and how). They know of the network what is published: each publication is built into a map of its
// own, which takes the place of the one before between two packets. They go on only while this process says so again and
// again (`refresh`): a table that nobody looks after expires within seconds, and everything is the ring's then. And they
// send only to peers that have said, and keep saying, that they take such datagrams in (`KernelPathPeers`).

import Addresses
import CKernelForwarding
import Counters
import Forwarding
import Glibc
import KernelPrograms
import Synchronization

/// The kernel path's side in this process.
public final class KernelForwarder: ForwardingSubscriber, KernelPathPeers, Sendable {
    /// For how long the table is good without a `refresh`.
    public static let validityNanoseconds: UInt64 = 5_000_000_000
    /// The longest that a peer is allowed at once.
    static let longestAllowanceMilliseconds = 60_000

    private struct State {
        var settings: kernel_settings
        /// The programs stand in both interfaces' way.
        var isAttached = false
        /// Whether packets to an underlay address leave by the underlay's interface.
        var leavesByUnderlay: @Sendable (IPAddress) -> Bool = { _ in true }
        /// Nothing is taken, whatever stands where: why.
        var suspension: String?
        /// The programs are to go on past this object's end.
        var isLeft = false
        /// Its data plane has ended: whatever is said of it since, the packet threads that it would pass are another one's.
        var isStopped = false
        /// What was last said; `published` is that, unless the kernel had no memory for it.
        var wanted: ForwardingRoutes?
        var published: ForwardingRoutes?
        /// The families of which there is a table.
        var tables: Set<AddressFamily> = []
        /// Until when which peer may be sent to, nanoseconds of the monotonic clock.
        var able: [Endpoint: UInt64] = [:]
    }

    /// The programs, for whoever attaches them.
    public let programs: KernelForwardingPrograms
    private let memory: KernelPathMemory
    /// The family of the addresses at which nodes reach each other.
    private let underlayFamily: AddressFamily
    private let state: Mutex<State>

    /// Loads the programs and lets each of them carry a packet of this process. They take nothing before `attached` has said where they stand, and count what they leave to the
    /// workers from when they stand there.
    ///
    /// - Parameters:
    ///   - underlay: this node's address on the underlay, and the network's port.
    ///   - former: where the workers receive as well; nil: nowhere.
    ///   - packetLimitBytes: inner packets of more are left to the ring.
    ///   - mtu: the largest inner packet that is taken from peers, bytes.
    ///   - workers: among how many workers flows and datagrams are steered, 1 to 64.
    ///   - memory: by which they and the workers tell each other what is through; nil: memory of their own.
    /// - Throws: `KernelProgramError` where the kernel refuses them, or they do otherwise there than they should.
    public init(
        underlay: Endpoint, former: Endpoint? = nil, packetLimitBytes: Int,
        mtu: Int, workers: Int = 1, memory: KernelPathMemory? = nil
    ) throws(KernelProgramError) {
        if let memory {
            self.memory = memory
        } else {
            self.memory = try KernelPathMemory()
        }
        let family = underlay.address.addressFamily
        underlayFamily = family
        programs = try KernelForwardingPrograms.load(self.memory, over: family)
        let here = kernel_endpoint(underlay)
        let before = former.flatMap { $0.address.addressFamily == family ? kernel_endpoint($0) : nil }
        let settings = kernel_settings(
            valid_until: 0, underlay_index: 0, tunnel_index: 0, underlay_address: here.address,
            former_address: before?.address ?? kernel_address(), port: here.port,
            former_port: before?.port ?? 0, packet_limit: UInt16(clamping: packetLimitBytes),
            workers: UInt16(clamping: workers), mtu: UInt32(clamping: mtu), unused: 0)
        state = Mutex(State(settings: settings))
        // They count from when they stand in the packets' way.
        state.withLock { write(&$0) }
    }

    /// Whether the kernel lets this process have a kernel path at all: loads it, tries it, and leaves nothing.
    ///
    /// - Parameter underlay: the family of the addresses at which nodes reach each other.
    /// - Throws: `KernelProgramError` where it does not.
    public static func probe(over underlay: AddressFamily) throws(KernelProgramError) {
        try KernelForwardingPrograms.load(KernelPathMemory(), over: underlay).close()
    }

    // MARK: What the control side says

    /// Takes note of where the programs stand.
    ///
    /// - Parameters:
    ///   - underlayIndex: the number of the interface that the inbound program stands at; nil: it stands nowhere.
    ///   - tunnelIndex: the same of the TUN device and the outbound program.
    public func attached(underlayIndex: UInt32?, tunnelIndex: UInt32?) {
        state.withLock { state in
            state.isAttached = underlayIndex != nil && tunnelIndex != nil
            state.settings.underlay_index = underlayIndex ?? 0
            state.settings.tunnel_index = tunnelIndex ?? 0
            write(&state)
        }
    }

    /// Has each peer that is to be allowed looked at first: the outbound program knows no way but by the underlay's
    /// interface, and a peer may be routed elsewhere.
    ///
    /// - Parameter check: whether packets to an underlay address leave by that interface. Called by whoever allows.
    public func ask(whetherItLeavesByUnderlay check: @escaping @Sendable (IPAddress) -> Bool) {
        state.withLock { $0.leavesByUnderlay = check }
    }

    /// Leaves everything to the ring for as long as there is a reason.
    ///
    /// - Parameter reason: in an operator's words; nil: there is none any more.
    public func suspend(_ reason: String?) {
        state.withLock { state in
            guard state.suspension != reason else { return }
            state.suspension = reason
            write(&state)
        }
    }

    /// Keeps the table good for another `validityNanoseconds`, and forgets peers whose time is over. To be called once a
    /// second.
    public func refresh() {
        let now = monotonicNanoseconds()
        state.withLock { state in
            if state.published == nil, let wanted = state.wanted { replaceTable(wanted, in: &state) }
            write(&state)
            for (endpoint, until) in state.able where until <= now {
                state.able[endpoint] = nil
                programs[KERNEL_MAP_ABLE].remove(kernel_endpoint(endpoint))
            }
        }
    }

    private func write(_ state: inout State) {
        let isOn =
            state.isAttached && state.suspension == nil && state.published != nil && !state.isStopped
        let now = monotonicNanoseconds()
        state.settings.valid_until = isOn ? now &+ KernelForwarder.validityNanoseconds : 0
        if !programs[KERNEL_MAP_SETTINGS].set(UInt32(0), to: state.settings) {
            // An entry of an array of one: refused by no kernel that took the map. Nothing is taken then either way.
            state.settings.valid_until = 0
        }
    }

    // MARK: ForwardingSubscriber

    /// Builds the routes into a table that takes the former one's place between two packets.
    ///
    /// - Parameter routes: with the slot of each peer's counters.
    /// - Returns: how many peers were left out.
    @discardableResult
    public func publish(_ routes: ForwardingRoutes) -> Int {
        state.withLock { state in
            state.wanted = routes
            if state.published != routes {
                replaceTable(routes, in: &state)
                write(&state)
            }
        }
        return max(0, routes.peers.count - ForwardingSnapshot.peerLimit)
    }

    /// Where the kernel has no memory for new tables, the old ones, which are true no longer, go all the same; the next
    /// `refresh` tries again.
    private func replaceTable(_ routes: ForwardingRoutes, in state: inout State) {
        state.settings.mtu = UInt32(clamping: routes.mtu)
        state.published = nil
        do throws(KernelProgramError) {
            let ipv4 = try KernelTable.ipv4(routes, over: underlayFamily)
            defer { ipv4?.close() }
            let ipv6 = try KernelTable.ipv6(routes, over: underlayFamily)
            defer { ipv6?.close() }
            if replaceTable(of: .ipv4, by: ipv4, in: &state), replaceTable(of: .ipv6, by: ipv6, in: &state) {
                state.published = routes
                return
            }
        } catch {}
        for family in AddressFamily.allCases { _ = replaceTable(of: family, by: nil, in: &state) }
    }

    /// The kernel waits each time for whoever still looks at the former table: where there is none before and after, nothing
    /// is asked of it.
    private func replaceTable(
        of family: AddressFamily, by map: KernelMap?, in state: inout State
    ) -> Bool {
        let table = programs[family == .ipv4 ? KERNEL_MAP_TABLE : KERNEL_MAP_TABLE_IPV6]
        if let map {
            guard table.set(UInt32(0), to: map.descriptor) else { return false }
            state.tables.insert(family)
        } else if state.tables.remove(family) != nil {
            table.remove(UInt32(0))
        }
        return true
    }

    // MARK: KernelPathPeers

    /// Whether the programs stand in both interfaces' way and take something.
    public var receives: Bool {
        let now = monotonicNanoseconds()
        return state.withLock { $0.settings.valid_until > now }
    }

    /// Lets a peer of the underlay's family that leaves by the underlay be sent to; any other is left to the ring.
    ///
    /// - Parameters:
    ///   - endpoint: the peer's, as it is published.
    ///   - duration: milliseconds from now, 60,000 at most.
    public func allow(_ endpoint: Endpoint, forMilliseconds duration: Int) {
        guard endpoint.address.addressFamily == underlayFamily else { return }
        guard state.withLock({ $0.leavesByUnderlay })(endpoint.address) else { return disallow(endpoint) }
        let milliseconds = min(max(duration, 0), KernelForwarder.longestAllowanceMilliseconds)
        let until = monotonicNanoseconds() &+ UInt64(milliseconds) * 1_000_000  // checked: 0 to 60,000
        state.withLock { state in
            guard programs[KERNEL_MAP_ABLE].set(kernel_endpoint(endpoint), to: until) else { return }
            state.able[endpoint] = until
        }
    }

    /// Ends that at once.
    ///
    /// - Parameter endpoint: the peer's.
    public func disallow(_ endpoint: Endpoint) {
        guard endpoint.address.addressFamily == underlayFamily else { return }
        state.withLock { state in
            programs[KERNEL_MAP_ABLE].remove(kernel_endpoint(endpoint))
            state.able[endpoint] = nil
        }
    }

    /// Whether a flow waits for a worker's word that what it was left is through: one that sleeps gives it when it is woken.
    public var waitsForWorkers: Bool {
        let workers = Int(state.withLock { $0.settings.workers })
        let passages = [KernelPathTraffic.Way.out, .in].flatMap { way in
            (0..<workers).compactMap { traffic.passage(way, ofWorker: $0) }
        }
        return passages.contains { $0.wanted > $0.through }
    }

    // MARK: What is seen

    /// What the workers and the programs tell each other, for as long as this object is there.
    public var traffic: KernelPathTraffic { memory.traffic }

    /// How the kernel path stands.
    public struct Standing: Sendable, Equatable {
        /// Whether both programs stand in their interfaces' way.
        public var isAttached: Bool
        /// Why they take nothing all the same; nil for no reason.
        public var suspension: String?
        /// The endpoints that are sent to now.
        public var able: Set<Endpoint>
        /// Bytes of the largest inner packet that is taken.
        public var packetBytes: Int
    }

    /// How the kernel path stands now.
    public var standing: Standing {
        let now = monotonicNanoseconds()
        return state.withLock { state in
            Standing(
                isAttached: state.isAttached,
                suspension: state.suspension
                    ?? (state.wanted != nil && state.published == nil
                        ? "the kernel has no memory for its table" : nil),
                able: Set(state.able.filter { $0.value > now }.keys),
                packetBytes: Int(state.settings.packet_limit))
        }
    }

    /// What the programs have counted, into the block that the caller is the one writer of. Seven system calls.
    ///
    /// - Parameter block: gets the packets as sent and delivered, beside those of the workers.
    public func count(into block: CounterBlock) {
        let sent = events(KERNEL_EVENT_SENT)
        let received = events(KERNEL_EVENT_RECEIVED)
        let receivedBytes = events(KERNEL_EVENT_RECEIVED_BYTES)
        block.set(.packetsSent, sent)
        block.set(.bytesSent, events(KERNEL_EVENT_SENT_BYTES))
        block.set(.datagramsReceived, received)
        block.set(.bytesReceived, receivedBytes)
        block.set(.packetsDelivered, received)
        block.set(.bytesDelivered, receivedBytes)
        block.set(.kernelPathPacketsSent, sent)
        block.set(.kernelPathPacketsReceived, received)
        block.set(.kernelPathKeptInOrder, events(KERNEL_EVENT_KEPT_IN_ORDER))
        block.set(.kernelPathLeftToRing, events(KERNEL_EVENT_LEFT_TO_RING))
        block.set(.dropKernelPathMemory, events(KERNEL_EVENT_FAILED))
    }

    private func events(_ event: kernel_event) -> Int {
        let sum = programs[KERNEL_MAP_EVENTS].values(of: event.rawValue, startingWith: UInt64(0))
            .reduce(0, &+)
        return Int(truncatingIfNeeded: sum)
    }

    /// What the programs have carried to and from the peer of a slot. A system call.
    public func counts(ofSlot slot: UInt16) -> PeerCounts {
        var sum = PeerCounts()
        for counts in programs[KERNEL_MAP_PEERS].values(
            of: UInt32(slot), startingWith: kernel_peer_counts())
        {
            var part = PeerCounts()
            part.packetsSent = counts.packets_sent
            part.bytesSent = counts.bytes_sent
            part.packetsReceived = counts.packets_received
            part.bytesReceived = counts.bytes_received
            part.lastReceivedNanoseconds = counts.last_received
            sum.add(part)
        }
        return sum
    }

    /// Has the programs go on, where they stand, for as long as what they know is good, which are seconds: also past `stop`.
    /// For a daemon that is followed by another in a moment.
    public func leave() { state.withLock { $0.isLeft = true } }

    /// Has the programs take nothing any more, for good, wherever they stand, but for those that are left.
    public func stop() {
        state.withLock { state in
            guard !state.isLeft else { return }
            state.isStopped = true
            write(&state)
        }
        // Whoever is asked holds this object, which would never end.
        state.withLock { $0.leavesByUnderlay = { _ in false } }
    }

    // Not before: whoever counts may still hold it.
    deinit { programs.close() }
}

func monotonicNanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(clamping: time.tv_sec) &* 1_000_000_000 &+ UInt64(clamping: time.tv_nsec)
}
