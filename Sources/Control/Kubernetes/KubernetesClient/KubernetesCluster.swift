import Glibc
import Health
internal import Host
package import KubernetesNodes
package import Leases
package import Logging

/// A Kubernetes cluster: its nodes are the peers, and this node's subnet is its `podCIDR`. `ClusterMachine` decides,
/// this carries out.
///
/// Made first of all, and run before an underlay is chosen, since `addressRequests` may choose it. Nothing is written
/// to the API server before `announce`.
package actor KubernetesCluster: AssigningCluster {
    /// What is known of the network, as it changes.
    package nonisolated let networks: AsyncStream<KnownNetwork>
    /// This node's subnet, as it changes; none before `announce`.
    package nonisolated let subnets: AsyncStream<OwnLease?>
    /// What this node's annotations ask of its addresses, each time that it is something else, the first time as soon
    /// as it is known: from the API server, or from what was kept on disk where that does not answer. A slow reader
    /// gets the newest only. One reader.
    package nonisolated let addressRequests: AsyncStream<NodeAddressRequests>
    /// How the log and the status name it: `Kubernetes, https://10.96.0.1:443`.
    package nonisolated let name: String

    private let networksContinuation: AsyncStream<KnownNetwork>.Continuation
    private let subnetsContinuation: AsyncStream<OwnLease?>.Continuation
    private let requestsContinuation: AsyncStream<NodeAddressRequests>.Continuation
    private let options: KubernetesOptions
    private let keys: AnnotationKeys
    private let times: APITimes
    private let keptPath: String
    private let access: APIAccess
    private let files: ClusterFiles
    private let logger: Logger
    private let heartbeat: @Sendable () -> Void
    private let clock = ContinuousClock()
    private var machine: ClusterMachine
    private var client: APIClient?

    private let inbox = Inbox<ClusterMachine.Input>(.timer)
    private var tasks: [Work: Task<Void, Never>] = [:]

    /// What goes on beside the loop, one of each at a time.
    private enum Work: CaseIterable {
        case reading, patch, watch, timer, networkFile, keeping
    }

    /// Makes a cluster's client; nothing is asked before `run`. Reads the kubeconfig, so it blocks for as long as
    /// that file's disk does.
    ///
    /// - Parameters:
    ///   - times: how long things may take.
    ///   - silenceLimit: how long the API server may tell nothing of the nodes before they are listed anew.
    ///   - logger: takes one line for each event, with stable field names.
    ///   - heartbeat: called each time that everything that had happened was dealt with.
    /// - Throws: why no cluster can be reached by these options.
    @available(*, noasync, message: "it blocks: use onThread")
    package init(
        options: KubernetesOptions, times: APITimes = APITimes(), silenceLimit: Duration? = nil,
        logger: Logger,
        heartbeat: @escaping @Sendable () -> Void = {}
    ) throws(KubernetesOptionsError) {
        guard options.nodeName != nil || (options.podName != nil && options.podNamespace != nil) else {
            throw KubernetesOptionsError(
                "this node's name is not known: set NODE_NAME from spec.nodeName in the pod's manifest, or give --node-name;"
                    + " POD_NAME together with POD_NAMESPACE would do")
        }
        keys = try AnnotationKeys(prefix: options.annotationPrefix)
        access = try APIAccess(
            options, kubeconfig: try Self.kubeconfig(options), isFile: { Glibc.access($0, F_OK) == 0 })
        do throws(SystemError) { files = try ClusterFiles() } catch {
            throw KubernetesOptionsError("\(error)")
        }
        (networks, networksContinuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
        (subnets, subnetsContinuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
        (addressRequests, requestsContinuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
        name = "Kubernetes, \(access.server)"
        keptPath = options.stateDirectory + "/kubernetes.json"
        self.options = options
        self.times = times
        self.logger = logger
        self.heartbeat = heartbeat
        var settings = ClusterMachine.Settings(
            apiName: "\(access.server)", nodeName: options.nodeName, keys: keys,
            networkConfigurationPath: options.networkConfigurationPath, keptPath: keptPath,
            setsNodeNetworkUnavailable: options.setsNodeNetworkUnavailable, lossPolicy: options.lossPolicy)
        if let silenceLimit { settings.silenceLimit = silenceLimit }
        machine = ClusterMachine(settings: settings, seed: .random(in: 0...UInt64.max), now: clock.now)
    }

    private static func kubeconfig(_ options: KubernetesOptions) throws(KubernetesOptionsError) -> [UInt8]? {
        guard let path = options.kubeconfigFile else { return nil }
        do throws(SystemError) {
            guard let text = try TextFile.read(path, limit: 1 << 20) else {
                throw SystemError(path, code: ENOENT)
            }
            return Array(text.utf8)
        } catch {
            throw KubernetesOptionsError("the kubeconfig cannot be read: \(error)")
        }
    }

    /// Follows the cluster until the task is cancelled; this node's annotations stay. Once only.
    ///
    /// - Throws: `LeaseLost` where this node's podCIDR became another one, with the policy `exit` only. Whatever the
    ///   API server does ends nothing.
    package func run() async throws(LeaseLost) {
        let client = APIClient(access: access, keys: keys, files: files, times: times) { [inbox] clocks in
            inbox.post(.clocks(clocks))
        }
        self.client = client
        followFiles()
        let lost = await loop()
        for task in tasks.values { task.cancel() }
        for task in tasks.values { await task.value }
        tasks = [:]
        // A server that does not say goodbye is not waited for.
        Task.detached { await client.close() }
        networksContinuation.finish()
        subnetsContinuation.finish()
        requestsContinuation.finish()
        if let lost { throw LeaseLost(lost) }
    }

    /// Writes another address or port of this node into its annotations from now on.
    package func announce(_ announcement: NodeAnnouncement) async { inbox.post(.announce(announcement)) }

    /// Asks for a heartbeat: the loop goes round once, for nothing else.
    package func poke() async { inbox.post(.timer) }

    /// Says whether device, routes, rules and `subnet.env` stand. While they do, the node's condition
    /// `NetworkUnavailable` is made false, and made so again where somebody else changes it.
    package func setNetworkStands(_ stands: Bool) { inbox.post(.networkStands(stands)) }

    // MARK: The loop

    /// - Returns: why the node ends; nil where the task was cancelled.
    private func loop() async -> String? {
        while true {
            let arrived = await inbox.takeAll()
            if Task.isCancelled { return nil }
            tasks[.timer]?.cancel()
            var reason: String?
            for action in machine.handle(arrived, now: clock.now) {
                if case .end(let end) = action { reason = end } else { carryOut(action) }
            }
            heartbeat()
            if let reason {
                // What was found is to be on the disk: the next start is not to end by the same.
                await tasks[.keeping]?.value
                return reason
            }
        }
    }

    // MARK: What is to be done

    private func carryOut(_ action: ClusterMachine.Action) {
        switch action {
        case .readPod, .readOwnNode, .list: read(action)
        case .watch(let version, let number, let timeoutSeconds):
            watch(after: version, number: number, timeoutSeconds: timeoutSeconds)
        case .endWatch:
            tasks[.watch]?.cancel()
        case .patch(let patch):
            start(.patch) { inbox, client, name in
                inbox.post(
                    .patched(
                        await result { () throws(APIFailure) in
                            try await client.patch(patch, node: name)
                        }))
            }
        case .wake(let instant):
            tasks[.timer] = Task { [clock, inbox] in
                guard (try? await clock.sleep(until: instant)) != nil else { return }
                inbox.post(.timer)
            }
        case .publish(let network): networksContinuation.yield(network)
        case .assign(let lease): subnetsContinuation.yield(lease)
        case .request(let requests): requestsContinuation.yield(requests)
        case .keep(let state):
            let before = tasks[.keeping]
            tasks[.keeping] = Task { [files, inbox, keptPath, keys] in
                await before?.value
                inbox.post(.keptFailed(await files.keep(state, in: keptPath, keys: keys)))
            }
        case .report(let report):
            logger.log(level: report.level, report.event, metadata: report.fields.mapValues { .string($0) })
        case .end: break
        }
    }

    private func start(
        _ work: Work,
        _ body: @escaping @Sendable (Inbox<ClusterMachine.Input>, APIClient, String) async -> Void
    ) {
        guard let client else { return }
        let name = machine.nodeName ?? ""
        tasks[work] = Task { [inbox] in await body(inbox, client, name) }
    }

    private func read(_ action: ClusterMachine.Action) {
        let (pod, namespace) = (options.podName ?? "", options.podNamespace ?? "")
        start(.reading) { inbox, client, name in
            switch action {
            case .readPod:
                inbox.post(
                    .pod(
                        await result { () throws(APIFailure) in
                            try await client.nodeName(ofPod: pod, namespace: namespace)
                        }))
            case .list(let version, let token):
                inbox.post(
                    .page(
                        await result { () throws(APIFailure) in
                            try await client.nodes(version, continuing: token)
                        }))
            default:
                inbox.post(
                    .ownNode(await result { () throws(APIFailure) in try await client.node(name) }))
            }
        }
    }

    private func watch(after version: String, number: Int, timeoutSeconds: Int) {
        tasks[.watch]?.cancel()
        start(.watch) { inbox, client, _ in
            do throws(APIFailure) {
                try await client.watch(
                    after: version, timeoutSeconds: timeoutSeconds,
                    opened: { inbox.post(.watchOpened(watch: number)) },
                    told: { inbox.post(.events($0, watch: number)) })
                inbox.post(.watchEnded(nil, watch: number))
            } catch {
                inbox.post(.watchEnded(error, watch: number))
            }
        }
    }

    /// Reads what was kept, then `net-conf.json`, and that again and again: a ConfigMap's files are exchanged behind
    /// a symbolic link, of which no notification tells reliably.
    private func followFiles() {
        tasks[.networkFile] = Task { [files, inbox, options, times, keptPath, keys] in
            inbox.post(.kept(await files.kept(keptPath, keys: keys)))
            var last: ClusterMachine.NetworkFile?
            while !Task.isCancelled {
                let file = await files.networkFile(options.networkConfigurationPath)
                if file != last { inbox.post(.networkFile(file)) }
                last = file
                try? await Task.sleep(for: times.fileInterval)
            }
        }
    }
}

private func result<Value>(
    _ body: () async throws(APIFailure) -> Value
) async -> Result<Value, APIFailure> {
    do throws(APIFailure) { return .success(try await body()) } catch { return .failure(error) }
}
