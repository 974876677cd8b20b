import Addresses
import Backends
import Glibc
import Health
import Logging
import Synchronization
import Worker

/// What this process has of the one before, and whether another one has it of this.
final class Succession: Sendable {
    private struct Known {
        var inherited: InheritedDataPlane?
        var hasTakenOver = false
        var isTakenOver = false
        var refusal: String?
    }

    var notification: ServiceNotification { inheritance.notification }
    var store: DescriptorStore { inheritance.store }
    private let inheritance: Inheritance
    private let options: NodeOptions
    private let logger: Logger
    private let known = Mutex(Known())

    init(_ inheritance: Inheritance, _ options: NodeOptions, logger: Logger) {
        self.inheritance = inheritance
        self.options = options
        self.logger = logger
    }

    /// Whether another daemon has handed over to this one.
    var hasTakenOver: Bool { known.withLock { $0.hasTakenOver } }

    /// Whether this one has handed over to another.
    var isTakenOver: Bool {
        get { known.withLock { $0.isTakenOver } }
        set { known.withLock { $0.isTakenOver = newValue } }
    }

    /// Why the other daemon does not hand over; nil where it was not asked.
    var refusal: String? { known.withLock { $0.refusal } }

    /// The data plane that forwards already, for the daemon, whose it is from here on.
    func takeInherited() -> InheritedDataPlane? {
        known.withLock { known in
            defer { known.inherited = nil }
            return known.inherited
        }
    }

    /// The paths that the process before knew to be narrow: the largest inner packet in bytes, by subnet.
    var inheritedPaths: [IPPrefix: Int] {
        guard let state = known.withLock({ $0.inherited?.state }), let underlay = state.underlay.endpoint
        else {
            return [:]
        }
        let overhead = UDPBackend().overhead(over: underlay.address.addressFamily)
        let pairs = (state.pathMTUs ?? [:]).compactMap { text, mtu in
            IPPrefix(text).map { ($0, mtu &- overhead) }
        }
        return Dictionary(pairs.filter { $0.1 > 0 }, uniquingKeysWith: min)
    }

    private var node: HandOverState.Node {
        HandOverState.Node(
            subnetFile: options.lease.subnetFile, stateDirectory: options.lease.stateDirectory)
    }

    /// Goes on with what forwards already, on what systemd kept for this process, unless it is another node's.
    @available(*, noasync, message: "it blocks: use onThread")
    func inherit() {
        let failure: HandOverFailure
        switch inheritance.take() {
        case .nothing: return
        case .forwards(let inherited):
            let (name, state) = (inherited.state.tunnel.name, inherited.state)
            guard name != options.tunnel.interfaceName else {
                known.withLock { $0.inherited = inherited }
                logger.notice(
                    .inherited, metadata: ["from": "\(state.build)", "peers": "\(state.peers.count)"])
                return
            }
            failure = HandOverFailure("the device was \(name)")
            inherited.dataPlane.tunnel?.setPersistent(false)
            inherited.dataPlane.stop()
        case .unusable(let reason): failure = reason
        }
        logger.warning(
            .notInherited, metadata: ["detail": "\(failure)", "action": "starting without it"])
    }

    /// Takes over from the daemon that answers on the status socket.
    ///
    /// - Returns: whether it has.
    @available(*, noasync, message: "it blocks: use onThread")
    func takeOver() -> Bool {
        guard options.succession.takesOver, !hasTakenOver else { return false }
        do throws(HandOverFailure) {
            let predecessor = Predecessor(statusSocket: options.observation.statusSocket)
            guard
                let inherited = try predecessor.takeOver(
                    node: node, tunnelName: options.tunnel.interfaceName, tuning: options.tuning)
            else {
                known.withLock { $0.refusal = "it is of a release that can't" }
                return false
            }
            known.withLock {
                $0.inherited = inherited
                $0.hasTakenOver = true
            }
            logger.notice(
                .takenOver,
                metadata: ["from": "\(inherited.state.build)", "peers": "\(inherited.state.peers.count)"])
            return true
        } catch {
            known.withLock { $0.refusal = error.description }
            return false
        }
    }

    /// Leaves the data plane that nobody has taken to the next process.
    @available(*, noasync, message: "it blocks: use onThread")
    func leave() {
        guard let inherited = takeInherited() else { return }
        inherited.dataPlane.tunnel?.setPersistent(options.succession.stop == .keep)
        inheritance.putBack(inherited)
    }
}
