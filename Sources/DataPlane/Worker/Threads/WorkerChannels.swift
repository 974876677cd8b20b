// How it works. A TUN queue and a bound socket can't be made a second time while somebody has them, and what waits in them
// is lost when they are closed. So they outlive a data plane: they are given from one to the next, within the process or
// to another (ADR 92). Everything else, threads, memory, rings, snapshots, each data plane makes for itself.

import Addresses
import Devices
import Glibc

/// What a descriptor is that is given from one data plane to the next. The raw values are the names that another process,
/// and systemd's store, know them by.
public enum ChannelKind: String, Sendable, CaseIterable {
    /// A queue of the TUN device.
    case tunnel
    /// A socket on the network's port, to receive from.
    case receiver
    /// A socket to send on; where it is missing, its worker sends on its receiver.
    case sender
    /// The socket that hellos are sent on, one for all workers.
    case helloSender = "hello"
    /// A socket on the port that the network had before.
    case formerReceiver = "former"
}

/// Descriptors with names (`tunnel-0`), as they are given to another process. Names that are not known here are kept, for
/// whoever knows them.
public struct NamedDescriptors: Sendable, Equatable {
    /// The descriptors, by name.
    public var descriptors: [String: Int32] = [:]

    /// None.
    public init() {}

    /// That of a worker; nil where there is none of the kind.
    public subscript(_ kind: ChannelKind, _ worker: Int) -> Int32? {
        get { descriptors[NamedDescriptors.name(kind, worker)] }
        set { descriptors[NamedDescriptors.name(kind, worker)] = newValue }
    }

    static func name(_ kind: ChannelKind, _ worker: Int) -> String { "\(kind.rawValue)-\(worker)" }

    /// Whether all that workers need is there. By their names a device's queues are the last (`inOrder`).
    ///
    /// - Parameter workers: how many there are.
    public func areComplete(forWorkers workers: Int) -> Bool {
        (0..<workers).allSatisfy { self[.tunnel, $0] != nil && self[.receiver, $0] != nil }
    }

    /// All of them in the order of their names.
    public var inOrder: [(name: String, descriptor: Int32)] {
        descriptors.sorted { $0.key < $1.key }.map { (name: $0.key, descriptor: $0.value) }
    }

    /// Closes all of them.
    public func close() { for descriptor in descriptors.values { Glibc.close(descriptor) } }
}

/// What of a data plane cannot be made twice: the TUN queues and the sockets.
public struct WorkerChannels: Sendable {
    /// The TUN device, with a queue for each worker.
    public var tunnel: TunnelDevice
    /// The underlay address and port that datagrams come to.
    public var underlay: Endpoint
    var sockets: WorkerSockets

    /// How many workers they are for.
    public var workerCount: Int { sockets.receivers.count }

    /// Opens them.
    ///
    /// - Parameters:
    ///   - configuration: the device's name, the address to bind and the tuning.
    ///   - patienceMilliseconds: how long to wait for the TUN name where another process holds it: the kernel takes
    ///     down the ring of one that was killed some time after its end.
    ///   - busy: called once where it has to wait.
    /// - Throws: `DataPlaneError`; then nothing is open.
    public static func open(
        _ configuration: DataPlaneConfiguration, patienceMilliseconds: Int = 0, busy: () -> Void = {}
    ) throws(DataPlaneError) -> WorkerChannels {
        let sockets = try openSockets(configuration)
        do throws(TunnelError) {
            let tunnel = try TunnelDevice.open(
                name: configuration.tunnelName, queueCount: configuration.tuning.workerCount,
                offloads: configuration.tuning.tunnelOffloads, patienceMilliseconds: patienceMilliseconds,
                busy: busy)
            return WorkerChannels(tunnel: tunnel, underlay: configuration.underlay, sockets: sockets)
        } catch {
            sockets.close()
            throw .tunnel(error)
        }
    }

    private static func openSockets(
        _ configuration: DataPlaneConfiguration
    ) throws(DataPlaneError) -> WorkerSockets {
        do throws(UnderlaySocketError) {
            return try WorkerSockets.open(
                at: configuration.underlay, workers: configuration.tuning.workerCount,
                tuning: configuration.tuning)
        } catch {
            throw .socket(error)
        }
    }

    /// Takes over what another process had open.
    ///
    /// - Parameters:
    ///   - named: the descriptors. Those that belong to the channels become theirs to close; what carries another name
    ///     stays the caller's.
    ///   - configuration: what they must be; its tuning is given to them.
    ///   - offloads: those that the TUN device was opened with.
    /// - Throws: `DataPlaneError` where they are something else; then all of them are still the caller's.
    public init(
        adopting named: NamedDescriptors, for configuration: DataPlaneConfiguration, offloads: TunnelOffloads
    ) throws(DataPlaneError) {
        let workers = configuration.tuning.workerCount
        let queues = (0..<workers).compactMap { named[.tunnel, $0] }
        guard queues.count == workers else {
            throw .resource("take over \(workers) queues of \(configuration.tunnelName)", errorNumber: EBADF)
        }
        do throws(TunnelError) {
            let device = try TunnelDevice(
                named: configuration.tunnelName, adopting: queues, offloads: offloads)
            tunnel =
                offloads == configuration.tuning.tunnelOffloads
                ? device : device.with(offloads: configuration.tuning.tunnelOffloads)
        } catch { throw .tunnel(error) }
        underlay = configuration.underlay
        do throws(UnderlaySocketError) {
            sockets = try WorkerSockets(
                adopting: named, at: configuration.underlay, workers: workers, tuning: configuration.tuning)
        } catch { throw .socket(error) }
    }

    private init(tunnel: TunnelDevice, underlay: Endpoint, sockets: WorkerSockets) {
        self.tunnel = tunnel
        self.underlay = underlay
        self.sockets = sockets
    }

    /// The descriptors by their names. They stay the channels' to close.
    public var named: NamedDescriptors {
        var named = NamedDescriptors()
        for worker in 0..<workerCount {
            named[.tunnel, worker] = tunnel.queues[worker].descriptor
            let receiver = sockets.receivers[worker].descriptor
            named[.receiver, worker] = receiver
            if sockets.senders[worker] != receiver { named[.sender, worker] = sockets.senders[worker] }
            let former = sockets.formerReceiver(ofWorker: worker)
            if former >= 0 { named[.formerReceiver, worker] = former }
        }
        named[.helloSender, 0] = sockets.helloSender
        return named
    }

    /// Whether there are sockets on a port or address that the node had before.
    public var hasFormerSockets: Bool { !sockets.former.isEmpty }

    /// Where those are bound; nil where there are none.
    var formerUnderlay: Endpoint? { sockets.former.first.flatMap { Endpoint(boundBy: $0) } }

    /// Lets flows and datagrams go to the first workers alone.
    ///
    /// - Returns: whether the kernel does so with packets, and with datagrams.
    func steer(among workers: Int) -> (packets: Bool, datagrams: Bool) {
        (
            workers == 1 && tunnel.queues.count == 1 || tunnel.steerFlows(among: workers),
            sockets.steer(among: workers, of: underlay.address.addressFamily)
        )
    }

    /// Opens what workers need beside these. Nothing comes to them before they are steered to.
    ///
    /// - Throws: `DataPlaneError`; then there is as much as before. `unsteerable` where the kernel would spread flows by
    ///   itself as soon as there is a second queue.
    func growing(to workers: Int, tuning: Tuning) throws(DataPlaneError) -> WorkerChannels {
        guard tunnel.steerFlows(among: workerCount) else { throw .unsteerable(errorNumber: errno) }
        var all = self
        do throws(TunnelError) {
            all.tunnel = try tunnel.adding(queueCount: workers - workerCount)
        } catch { throw .tunnel(error) }
        do throws(UnderlaySocketError) {
            all.sockets = try sockets.growing(to: workers, at: underlay, tuning: tuning)
        } catch {
            _ = all.tunnel.closingQueues(behind: workerCount)
            throw .socket(error)
        }
        return all
    }

    /// The first workers' alone; what the others have is open still.
    func narrowed(to workers: Int) -> WorkerChannels {
        WorkerChannels(
            tunnel: tunnel.narrowed(to: workers), underlay: underlay, sockets: sockets.narrowed(to: workers))
    }

    /// The same TUN queues, with new sockets at the address and port of `configuration`, open beside the old ones.
    func opening(_ configuration: DataPlaneConfiguration) throws(DataPlaneError) -> WorkerChannels {
        WorkerChannels(
            tunnel: tunnel, underlay: configuration.underlay,
            sockets: try WorkerChannels.openSockets(configuration))
    }

    /// The same sockets, with those of `others` as the former ones.
    func following(_ others: WorkerChannels) -> WorkerChannels {
        WorkerChannels(tunnel: tunnel, underlay: underlay, sockets: sockets.following(others.sockets))
    }

    /// The same without the former sockets, which are open still.
    func forgettingFormer() -> WorkerChannels {
        WorkerChannels(tunnel: tunnel, underlay: underlay, sockets: sockets.forgettingFormer())
    }

    /// The same with the buffers and offloads of another tuning.
    func tuned(_ configuration: DataPlaneConfiguration) throws(DataPlaneError) -> WorkerChannels {
        do throws(UnderlaySocketError) {
            let isSame = tunnel.offloads == configuration.tuning.tunnelOffloads
            return WorkerChannels(
                tunnel: isSame ? tunnel : tunnel.with(offloads: configuration.tuning.tunnelOffloads),
                underlay: underlay, sockets: try sockets.tuned(at: underlay, configuration.tuning))
        } catch { throw .socket(error) }
    }

    /// Closes what others do not have.
    mutating func closeAll(except others: WorkerChannels) {
        others.sockets.closeRest(of: sockets)
        if tunnel.queues.count > others.tunnel.queues.count {
            tunnel = tunnel.closingQueues(behind: others.tunnel.queues.count)
        }
    }

    /// Closes what others have and these do not.
    mutating func closeRest(of others: WorkerChannels) {
        sockets.closeRest(of: others.sockets)
        if others.tunnel.queues.count > tunnel.queues.count {
            _ = others.tunnel.closingQueues(behind: tunnel.queues.count)
        }
    }

    /// Closes all; the TUN device goes with its last queue, unless it is persistent.
    public func close() {
        sockets.close()
        tunnel.close()
    }
}
