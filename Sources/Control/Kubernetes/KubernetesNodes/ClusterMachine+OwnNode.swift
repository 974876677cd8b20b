internal import Addresses
internal import Backends
import Health
internal import JSON
internal import Leases
import Logging

extension ClusterMachine {
    /// This node's object, and what is being done about it.
    struct OwnNode {
        /// As it was last seen; nil before that.
        var record: NodeRecord?
        /// The version that was known when it was asked for last.
        var versionWhenAsked: String?
        /// Whether the record is of this run, and not of what was kept.
        var isConfirmed = false
        /// Whether the API server says that there is no such node.
        var isAbsent = false
        /// Whether the API server never knew one in this run.
        var wasNeverThere = true
        var networkStands = false
        /// The patch that is under way.
        var patch: NodePatch?
        var budget: TokenBucket
        /// The object whose annotations this run has written.
        var writtenTo: String?
        /// How often they had to be written again.
        var restores = 0
        var nextLook: Instant?

        init(now: Instant) { budget = TokenBucket(now: now) }

        mutating func noteWritten(uid: String) {
            if writtenTo == uid {
                restores += 1
            }
            writtenTo = uid
        }
    }

    // MARK: The object

    /// Whether an answer is of before what the watch has told since it was asked for.
    func isLate(_ record: NodeRecord) -> Bool {
        guard let known = own.record, own.isConfirmed, known.resourceVersion != own.versionWhenAsked else {
            return false
        }
        return record.isOlder(than: known)
    }

    /// - Parameter isNewest: whether the record is what the server has now; else it may be of before what is known.
    mutating func takeOwn(_ record: NodeRecord, isNewest: Bool) {
        if let known = own.record, own.isConfirmed, !isNewest, record.isOlder(than: known) { return }
        let before = own.record
        own.record = record
        own.isConfirmed = true
        own.isAbsent = false
        own.wasNeverThere = false
        own.nextLook = nil
        if let before, before.uid != record.uid {
            own.budget = TokenBucket(now: turn.now)
            report(
                .warning, .nodeMadeAnew,
                [
                    "node": record.name, "uid": record.uid, "uid_before": before.uid,
                    "podcidr": record.podCIDRs.joined(separator: ","),
                ])
        }
    }

    mutating func takeOwnAbsence() {
        if !own.isAbsent {
            report(.warning, .nodeIsAbsent, ["node": nodeName ?? "", "action": absenceProblem.remedy])
        }
        own.isAbsent = true
        own.nextLook = turn.now + Self.absentPause
    }

    var absenceProblem: (cause: String, remedy: String) {
        if own.wasNeverThere {
            return (
                "the cluster has no node \(nodeName ?? "")",
                "if that is not its name as kubectl get nodes shows it, correct NODE_NAME or --node-name; else its kubelet"
                    + " has not registered it yet, which is waited for"
            )
        }
        return (
            "the node \(nodeName ?? "") was deleted from the cluster",
            "restart its kubelet, which registers it again; until then this node keeps the subnet that it has"
        )
    }

    // MARK: What is announced

    mutating func take(_ announcement: NodeAnnouncement) {
        self.announcement = announcement
        judgeNetworkAnew()
    }

    var requests: NodeAddressRequests? {
        guard let annotations = own.record?.annotations, own.isConfirmed || kept.isInUse else { return nil }
        return NodeAddressRequests(
            nodePublicIP: annotations.nodePublicIP.flatMap(Self.address)?.v4,
            publicIPOverwrite: annotations.publicIPOverwrite.flatMap(Self.address)?.v4,
            nodePublicIPv6: annotations.nodePublicIPv6.flatMap(Self.address)?.v6,
            publicIPv6Overwrite: annotations.publicIPv6Overwrite.flatMap(Self.address)?.v6)
    }

    private static func address(_ text: String) -> IPAddress? {
        guard let address = IPAddress(text), address.isReachable else { return nil }
        return address
    }

    /// The operator's annotations that say nothing, as their last parts and values.
    var malformedRequests: [(name: String, value: String)] {
        let annotations = own.record?.annotations ?? NodeAnnotations()
        let fields: [(NodeAnnotations.Field, AddressFamily)] = [
            (.nodePublicIP, .ipv4), (.publicIPOverwrite, .ipv4), (.nodePublicIPv6, .ipv6),
            (.publicIPv6Overwrite, .ipv6),
        ]
        return fields.compactMap { field, family in
            guard let text = annotations[field], Self.address(text)?.addressFamily != family else {
                return nil
            }
            return (settings.keys.name(of: field), String(text.prefix(60)))
        }
    }

    /// Where other nodes are told to send to; nil before this node has an underlay.
    var ownEndpoint: Endpoint? {
        guard let announcement = effectiveAnnouncement, let configuration = network.configuration,
            let address = announcement.address(configuration.underlayFamily)
        else { return nil }
        return Endpoint(
            address: address,
            port: (type(of: configuration.backend).hasDataPlane ? announcement.port : nil)
                ?? configuration.backend.port)
    }

    /// What the node announces, with what an operator wants to be announced in its place.
    var effectiveAnnouncement: NodeAnnouncement? {
        guard var announcement else { return nil }
        announcement.publicAddress = requests?.publicIPOverwrite ?? announcement.publicAddress
        announcement.publicIPv6Address = requests?.publicIPv6Overwrite ?? announcement.publicIPv6Address
        return announcement
    }

    /// Where this node is reached.
    var ownAddresses: [IPAddress] {
        (announcement?.addresses ?? []) + (effectiveAnnouncement?.addresses ?? [])
    }

    // MARK: The subnet

    /// What the node's object says of its subnet.
    private enum Assignment {
        case subnet(LeaseSubnet)
        case none
        case unusable
    }

    /// Takes over the podCIDR that the node's object has now.
    mutating func settleSubnet() {
        guard let configuration = network.configuration, let record = own.record,
            own.isConfirmed || kept.isInUse
        else { return }
        switch assignment(of: record, in: configuration) {
        case .none:
            say(
                "subnet", "none \(record.uid)",
                LeaseReport(.warning, .waitingForSubnet, ["node": record.name]))
            // Until the new object has a subnet, the old one is kept, unless another node was given it.
            if let holding, holding.uid != record.uid, nodes.hasNode(overlapping: holding.subnet) {
                self.holding = nil
            }
        case .unusable:
            if holding?.uid != record.uid { holding = nil }
        case .subnet(let subnet):
            hold(subnet, of: record)
        }
    }

    private func assignment(of record: NodeRecord, in configuration: NetworkConfiguration) -> Assignment {
        let family = configuration.underlayFamily
        guard let prefix = record.prefix(family) else {
            return record.podCIDRs.isEmpty ? .none : .unusable
        }
        guard prefix.length <= prefix.address.bitWidth &- 2, let subnet = record.subnet(in: configuration),
            subnet.prefix(family) != nil
        else { return .unusable }
        return .subnet(subnet)
    }

    private mutating func hold(_ subnet: LeaseSubnet, of record: NodeRecord) {
        guard holding?.subnet != subnet else {
            holding?.uid = record.uid
            return
        }
        let before = holding?.subnet ?? earlierSubnet
        let wasHeld = holding != nil
        let replaced = before == subnet ? nil : before
        holding = Holding(subnet: subnet, uid: record.uid, acquired: turn.now, replaced: replaced)
        log["subnet"] = nil
        guard let replaced else {
            report(.notice, .subnetAssigned, ["node": record.name, "subnet": "\(subnet)"])
            return
        }
        report(
            .warning, .subnetChanged,
            [
                "node": record.name, "subnet": "\(subnet)", "subnet_before": "\(replaced)",
                "action": Self.staleSubnetRemedy,
            ])
        guard wasHeld, settings.lossPolicy == .exit else { return }
        hasEnded = true
        // The next start is not to lose the same subnet once more.
        kept.isDirty = true
        turn.actions.append(
            .end(
                reason:
                    "the node \(record.name) was made anew, and its podCIDR, \(replaced), is now \(subnet);"
                    + " twilld ends as --on-lease-loss says"))
    }

    /// What an earlier run had, where the file that says so could be read.
    private var earlierSubnet: LeaseSubnet? {
        kept.state?.own.flatMap { own in network.configuration.flatMap { own.subnet(in: $0) } }
    }

    static let staleSubnetRemedy =
        "restart the pods of this node, which have addresses of the old subnet; cni0 may have one too:"
        + " twilld cleanup --cni"

    /// What is wrong with the node's subnet; nil where nothing is.
    var subnetProblem: (cause: String, remedy: String)? {
        if own.isAbsent { return absenceProblem }
        guard let record = own.record, own.isConfirmed || kept.isInUse else { return nil }
        let family = network.configuration?.underlayFamily ?? .ipv4
        guard let prefix = record.prefix(family) else {
            if let given = record.podCIDRs.first {
                return (
                    "the podCIDR of the node \(record.name) is \(given.prefix(60)), and an \(family) prefix is needed",
                    "give the cluster an \(family) range: kube-controller-manager --cluster-cidr"
                )
            }
            return (
                "the node \(record.name) has no podCIDR",
                "have one assigned: kube-controller-manager --allocate-node-cidrs=true --cluster-cidr=NETWORK, kubeadm"
                    + " init --pod-network-cidr=NETWORK; it is waited for"
            )
        }
        guard let configuration = network.configuration else { return nil }
        if let network = configuration.network(family), !network.contains(prefix) {
            return (
                "the podCIDR of the node \(record.name), \(prefix), lies outside Network, \(network), of"
                    + " \(settings.networkConfigurationPath)",
                "make them one: Network there, or kube-controller-manager --cluster-cidr"
            )
        }
        if prefix.length > prefix.address.bitWidth &- 2 {
            return (
                "the podCIDR of the node \(record.name), \(prefix), has no room for pods",
                "give nodes a /\(prefix.address.bitWidth &- 2) or a wider one: kube-controller-manager --node-cidr-mask-size"
            )
        }
        return nil
    }

    // MARK: Patches

    /// What this node's annotations are to be; nil while it has nothing to announce.
    private var wantedAnnotations: NodeAnnotations? {
        guard let holding, let endpoint = ownEndpoint, let configuration = network.configuration else {
            return nil
        }
        let backend = configuration.backend
        guard backend.isReady(announcement?.preparation) else { return nil }
        let port = announcedPort(backend, configuration.underlayFamily)
        func data(_ family: AddressFamily) -> String? {
            holding.subnet.prefix(family).map {
                backend.data(for: $0, port: port, preparation: announcement?.preparation)?.json
                    ?? type(of: backend).nothingAnnounced
            }
        }
        var wanted = NodeAnnotations()
        wanted.isManaged = "true"
        wanted.backendType = type(of: backend).announcedType ?? ""
        // flannel's udp and host-gw write null here, and nobody of its nodes reads it. An object tells other twilld nodes that
        // this is one, and on which port it takes in; it goes when flanneld takes the node over, which writes null again.
        if configuration.underlayFamily == .ipv4 {
            wanted.backendData = data(.ipv4)
            wanted.publicIP = "\(endpoint.address)"
        }
        if configuration.underlayFamily == .ipv6 || type(of: backend).hasEndpointOfEachFamily,
            let address = effectiveAnnouncement?.publicIPv6Address, let data = data(.ipv6)
        {
            wanted.backendV6Data = data
            wanted.publicIPv6 = "\(address)"
        }
        return wanted
    }

    /// The port that others are told, also where it is the network's own: each node reads a changed ConfigMap at its own time,
    /// up to two minutes after others, and is to be sent to where it takes in meanwhile. Before the data plane stands it
    /// is the one that was announced before.
    private func announcedPort(_ backend: any Backend, _ family: AddressFamily) -> UInt16? {
        guard type(of: backend).hasDataPlane else { return nil }
        if let openPort = announcement?.openPort { return openPort }
        let field = family == .ipv4 ? NodeAnnotations.Field.backendData : .backendV6Data
        let before = (own.record?.annotations[field]).flatMap { JSONValue(parsing: $0) }
        let announced = try? type(of: backend).data(reading: before)
        return announced?.port ?? announcement?.port ?? backend.port
    }

    /// What of this node's object is to be changed now; nil for nothing.
    mutating func nextPatch() -> NodePatch? {
        if let nextLook = own.nextLook {
            if nextLook <= turn.now {
                own.nextLook = nil
                session.isOwnNodeWanted = true
                wake(at: turn.now)
            } else {
                wake(at: nextLook)
            }
        }
        guard own.patch == nil, let record = own.record, own.isConfirmed, !own.isAbsent, !record.uid.isEmpty
        else { return nil }
        var patch = NodePatch(uid: record.uid, annotations: nil, clearsNetworkUnavailable: false)
        if let wanted = wantedAnnotations,
            // What is not this network's is left as it is: nobody reads it.
            NodeAnnotations.Field.written.contains(where: {
                wanted[$0] != nil && record.annotations[$0] != wanted[$0]
            })
        {
            patch.annotations = wanted
        }
        patch.clearsNetworkUnavailable =
            settings.setsNodeNetworkUnavailable && own.networkStands && holding?.uid == record.uid
            && record.networkUnavailable != "False"
        guard patch.annotations != nil || patch.clearsNetworkUnavailable else {
            if session.failures[.patch] != nil { succeeded(.patch) }
            return nil
        }
        if let later = mayPatch() ?? own.budget.take(now: turn.now) {
            wake(at: later)
            return nil
        }
        return patch
    }

    mutating func reportPatched(_ patch: NodePatch) {
        if let annotations = patch.annotations {
            let fields = [
                "node": nodeName ?? "", "public_ip": annotations.publicIP ?? annotations.publicIPv6 ?? "",
                "times": "\(own.restores)",
            ]
            if own.restores == 0 {
                report(.notice, .annotationsWritten, fields)
            } else {
                report(.warning, .annotationsRestored, fields)
            }
        }
        if patch.clearsNetworkUnavailable { report(.notice, .networkAvailable, ["node": nodeName ?? ""]) }
    }
}
