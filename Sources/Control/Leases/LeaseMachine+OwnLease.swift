import Addresses
internal import Backends
import Health
import Logging

// MARK: - This node's lease

extension LeaseMachine {
    /// Where others are told to send to. A network whose family this node has no address of is not in effect.
    var ownEndpoint: Endpoint {
        Endpoint(
            address: announcement.address(underlayFamily) ?? ownAddresses.last ?? .v4(.any),
            // The kernel's own backends have one port for all nodes.
            port: (type(of: backend).hasDataPlane ? announcement.port : nil) ?? backend.port)
    }

    /// What this node announces in its lease of `subnet`.
    func ownValue(for subnet: LeaseSubnet) -> LeaseValue {
        // A port that is the network's own is not announced: flannel's udp announces nothing.
        let port = announcement.port == backend.port ? nil : announcement.port
        func data(_ family: AddressFamily) -> (any BackendData)? {
            subnet.prefix(family).flatMap {
                backend.data(for: $0, port: port, preparation: announcement.preparation)
            }
        }
        let hasIPv6 =
            subnet.ipv6 != nil && announcement.publicIPv6Address != nil
            && (type(of: backend).hasEndpointOfEachFamily || subnet.ipv4 == nil)
        let isOfOneEndpoint = !type(of: backend).hasEndpointOfEachFamily
        return LeaseValue(
            publicAddress: subnet.ipv4 == nil ? nil : announcement.publicAddress,
            publicIPv6Address: hasIPv6 ? announcement.publicIPv6Address : nil, backend: type(of: backend),
            data: data(isOfOneEndpoint && subnet.ipv4 == nil ? .ipv6 : .ipv4),
            ipv6Data: hasIPv6 && !isOfOneEndpoint ? data(.ipv6) : nil, hostName: announcement.hostName)
    }

    /// Of which family the address is that names this node.
    private var underlayFamily: AddressFamily { configuration?.underlayFamily ?? .ipv4 }

    /// How packets are carried; as flannel's usual configuration has it before there is one.
    private var backend: any Backend { configuration?.backend ?? backends.usual.init() }

    /// Whether this node knows what to announce for the network's backend.
    private var isPrepared: Bool { backend.isReady(announcement.preparation) }

    /// Whether an entry is this node's own: by the identity beside it or, where it has none (flanneld or a
    /// person wrote it), by what it announces, as flannel has it.
    func isOwn(_ record: LeaseRegister.Record) -> Bool {
        if let holder = record.entry.holder { return holder == identity }
        return announcesOwnEndpoint(record)
    }

    func announcesOwnEndpoint(_ record: LeaseRegister.Record) -> Bool {
        configuration.map {
            record.endpoint($0.underlayFamily, defaultPort: $0.backend.port) == ownEndpoint
        } ?? false
    }

    /// Whether an entry with another identity is this node's all the same: it is the subnet that this node had in its
    /// last run, and announces where this node is. That is what flanneld knows a node by; it is how a node finds its
    /// subnet again whose identity was lost. Should a node be alive that holds it, that one takes it back, and this
    /// one yields: docs/adr/0023.
    func isOwnByEvidence(_ record: LeaseRegister.Record) -> Bool {
        guard let evidence = memory.evidence, let subnet = record.subnet, record.entry.holder != nil,
            !isOwn(record)
        else {
            return false
        }
        return subnet.prefixes.first == evidence.prefixes.first && announcesOwnEndpoint(record)
    }

    /// The key of a lease that announces this node's address and is another node's.
    var sameAddress: String? {
        guard let key = log["same address"], let record = register[key], key != own?.key,
            !isOwn(record),
            announcesOwnEndpoint(record)
        else { return nil }
        return key
    }

    /// Has the lease of `subnet` from here on, or has it anew.
    ///
    /// - Parameters:
    ///   - timeToLive: nil for a reservation.
    ///   - value: what the entry says; it may be of before the last change of this node's address.
    ///   - asked: when the store was asked for it. The life of a lease counts from then: the store cannot have begun
    ///     sooner, and the answer may have been heard much later.
    mutating func hold(
        _ subnet: LeaseSubnet, timeToLive: Duration?, written value: String, since asked: Instant
    ) {
        let before = own.flatMap { $0.subnet == subnet ? $0 : nil }
        let adoption = search?.adopting.flatMap { $0.key == subnet.key ? $0 : nil }
        own = OwnSubnet.Holding(
            subnet: subnet, endpoint: ownEndpoint, acquired: before?.acquired ?? turn.now,
            renewed: turn.now, term: term(of: timeToLive, since: asked),
            replaced: memory.replaced == subnet ? nil : memory.replaced,
            isRewriteWanted: (try? LeaseValue(parsing: value, backends: backends)) != ownValue(for: subnet),
            adoption: adoption ?? before?.adoption)
        memory.wanted = subnet
        memory.evidence = nil
        log["none left"] = nil
        if let problem = selfhood.problem, problem.until == nil {
            selfhood.problem = (problem.problem, turn.now + Self.noticeTime)
        }
    }

    private mutating func term(of timeToLive: Duration?, since asked: Instant) -> OwnSubnet.Holding.Term {
        guard let timeToLive else { return .reservation }
        // A margin that leaves nothing of the lease's life would renew without end.
        let margin = options.renewalMargin < timeToLive ? options.renewalMargin : timeToLive / 2
        let wait = timeToLive - margin
        // Nodes started together do not renew together.
        let renewAt = asked + wait - min(margin, wait) * Double.random(in: 0...0.1, using: &random)
        return .lease(expiry: asked + timeToLive, renewAt: renewAt)
    }

    /// Notices that another node has taken the lease, or that it became a reservation.
    mutating func settleOwnLease(now: Instant) {
        guard let own, let record = register[own.key] else { return }
        guard
            let taker = record.endpoint(
                own.endpoint.address.addressFamily, defaultPort: own.endpoint.port)
        else {
            // It names nobody: damage, not a taker.
            self.own?.isRewriteWanted = true
            return
        }
        if record.entry.holder == identity {
            if !ownAddresses.contains(taker.address) {
                settleSecondSelf(own, at: taker, now: now)
            }
            return
        }
        let namesThisNode = taker == ownEndpoint || taker == own.endpoint
        guard let holder = record.entry.holder else {
            // An entry without an identity that announces this node's address, or that of a moment ago, is its own.
            if namesThisNode || isOwn(record) {
                if record.isReservation, !own.isReservation { becomeReservation() }
                return
            }
            return lose(own, to: taker, record, now: now)
        }
        guard namesThisNode else { return lose(own, to: taker, record, now: now) }
        if own.adoption?.holder == holder {
            yieldSubnet(own, to: holder)
        } else if mayContest(now: now) {
            // It took this node for one that had died. That one yields when it sees that this node lives.
            self.own?.isRewriteWanted = true
            report(
                .error, .takingLeaseBack,
                ["subnet": "\(own.subnet)", "public_ip": "\(taker.address)", "holder": "\(holder)"])
        }
    }

    mutating func becomeReservation() {
        own?.term = .reservation
        report(
            .notice, .leaseMadeReservation,
            ["subnet": own.map { "\($0.subnet)" } ?? ""])
    }

    mutating func lose(
        _ own: OwnSubnet.Holding, to taker: Endpoint, _ record: LeaseRegister.Record, now: Instant
    ) {
        let subnet = own.subnet
        self.own = nil
        memory.replaced = subnet
        report(
            .error, .subnetLost,
            [
                "subnet": "\(subnet)", "taken_by": "\(taker)",
                "holder": record.entry.holder.map { "\($0)" } ?? "unknown",
                "action": options.lossPolicy == .exit ? "exit" : "new lease; restart the pods of this node",
            ])
        end("the subnet \(subnet) of this node was taken by \(taker)")
    }

    /// Ends where the operator wants that a node ends rather than take another subnet.
    mutating func end(_ reason: String) {
        guard options.lossPolicy == .exit else { return }
        standing = .ended
        turn.actions.append(.end(reason: reason))
    }

    /// The next write that this node's lease or an expired one needs.
    mutating func nextWrite(now: Instant) -> Write? {
        guard let configuration else { return nil }
        if let own { return upkeep(of: own, now: now) ?? release(now: now) }
        guard isPrepared else { return release(now: now) }
        return acquisition(in: configuration, now: now) ?? release(now: now)
    }

    mutating func upkeep(of own: OwnSubnet.Holding, now: Instant) -> Write? {
        guard let record = register[own.key] else {
            guard isPrepared else { return nil }
            say(
                "own key", own.key,
                LeaseReport(
                    .warning, .leaseIsGone,
                    ["subnet": "\(own.subnet)"]))
            return .create(
                key: own.key, value: ownValue(for: own.subnet).json, timeToLive: options.timeToLive)
        }
        log["own key"] = nil
        let isReservation =
            own.isReservation || (record.isReservation && record.entry.holder == nil && isOwn(record))
        let ownValue = ownValue(for: own.subnet)
        let isOurs = (try? record.value.get()) == ownValue
        // Without what the backend needs first, what the lease says is left; it is renewed all the same.
        let isKept = isOurs || !isPrepared
        let isRewriteDue = own.isRewriteWanted && (!isKept || !isOwn(record))
        guard isRewriteDue || own.renewAt.map({ $0 <= now }) ?? false else {
            self.own?.isRewriteWanted = false
            return nil
        }
        return .renew(
            key: own.key, value: isKept ? record.entry.value : ownValue.json,
            timeToLive: isReservation ? nil : options.timeToLive, version: record.entry.version)
    }

    /// flannel's four rules for the subnet that a node gets: the lease that it has, where it fits the network; where
    /// it does not, that one is deleted; then the subnet of its last run; then any that is free.
    mutating func acquisition(in configuration: NetworkConfiguration, now: Instant) -> Write? {
        let records = register.records.values.filter { register.held[$0.entry.key] == nil }
        let candidates = records.filter { isOwn($0) || isOwnByEvidence($0) }.sorted(by: goesBefore)
        tellOfSameAddress(among: records)
        if let record = candidates.first(where: { $0.subnet.map(configuration.admits) ?? false }),
            let subnet = record.subnet
        {
            decide(
                "\(subnet)",
                isOwn(record)
                    ? "the \(record.isReservation ? "reservation" : "lease") that this node has"
                    : "the subnet of the last run, whose lease announces this node's address with another identity"
            )
            return takeOver(record, of: subnet, now: now)
        }
        for record in candidates where isOwn(record) {
            if !record.isReservation {
                decide(record.entry.key, "this node's lease, which does not fit the network: it is deleted")
                return .delete(key: record.entry.key, version: record.entry.version)
            }
            say(
                "reservation " + record.entry.key, record.entry.value,
                LeaseReport(
                    .warning,
                    .reservationDoesNotFit,
                    ["key": record.entry.key, "network": configuration.networkText]))
        }
        guard let wanted = memory.wanted else {
            return creation(in: configuration, because: "this node had none", now: now)
        }
        if let hindrance = hindrance(to: wanted, in: configuration) {
            return creation(in: configuration, because: "\(wanted) \(hindrance)", now: now)
        }
        decide("\(wanted)", "the subnet of the last run, which is free")
        return .create(
            key: wanted.key, value: ownValue(for: wanted).json, timeToLive: options.timeToLive)
    }

    /// Why this node does not ask for the subnet of its last run again, as the end of a sentence that begins with it;
    /// nil where it does.
    private func hindrance(to wanted: LeaseSubnet, in configuration: NetworkConfiguration) -> String? {
        if !configuration.admits(wanted) { return "does not fit the network" }
        if memory.yielded.contains(wanted) { return "was left to another node" }
        if search?.taken.contains(wanted) ?? false { return "was taken a moment ago" }
        return register.isFree(wanted) ? nil : "is another node's"
    }

    /// A line for whoever looks for a fault (`-v 1`): which subnet, and why that one.
    private mutating func decide(_ subnet: String, _ reason: String) {
        say(
            "decision", subnet + reason,
            LeaseReport(.debug, .leaseDecision, ["subnet": subnet, "reason": reason]))
    }

    /// Whether this node rather takes over the entry `left` than `right`: one that names it goes before one of a
    /// former address, which a copy of this node may hold.
    private func goesBefore(_ left: LeaseRegister.Record, _ right: LeaseRegister.Record) -> Bool {
        func rank(_ record: LeaseRegister.Record) -> Int {
            (announcesOwnEndpoint(record) ? 0 : 2) &+ (record.subnet == memory.wanted ? 0 : 1)
        }
        let (leftRank, rightRank) = (rank(left), rank(right))
        return leftRank != rightRank ? leftRank < rightRank : left.entry.key < right.entry.key
    }

    private mutating func tellOfSameAddress(among records: [LeaseRegister.Record]) {
        let others = records.filter {
            announcesOwnEndpoint($0) && !isOwn($0) && !isOwnByEvidence($0)
        }
        // In an order that is always the same: what is told, and told of last, does not depend on a hash.
        for record in others.sorted(by: { $0.entry.key < $1.entry.key }) {
            say(
                "same address", record.entry.key,
                LeaseReport(
                    .error, .addressAnnouncedByAnother,
                    [
                        "public_ip": "\(ownEndpoint.address)", "port": "\(ownEndpoint.port)",
                        "key": record.entry.key, "holder": record.entry.holder.map { "\($0)" } ?? "unknown",
                        "action": "give each node its own --public-ip or its own port",
                    ]))
        }
    }

    /// Takes over an entry that is this node's already.
    ///
    /// - Returns: nil where nothing is to be written for that.
    private mutating func takeOver(
        _ record: LeaseRegister.Record, of subnet: LeaseSubnet, now: Instant
    ) -> Write? {
        let ownValue = ownValue(for: subnet)
        if record.isReservation, (try? record.value.get()) == ownValue {
            hold(subnet, timeToLive: nil, written: record.entry.value, since: now)
            report(.notice, .leaseIsReservation, ["subnet": "\(subnet)"])
            return nil
        }
        adopt(record)
        return .renew(
            key: record.entry.key, value: ownValue.json,
            timeToLive: record.isReservation ? nil : options.timeToLive, version: record.entry.version)
    }

    /// One of the first free subnets, at random.
    private mutating func creation(
        in configuration: NetworkConfiguration, because reason: String, now: Instant
    ) -> Write? {
        if let until = search?.pausedUntil, until > now { return nil }
        let taken = search?.taken ?? []
        let free = register.freeSubnets(
            in: configuration, limit: Self.choices, without: taken.union(memory.yielded))
        guard let subnet = free.randomElement(using: &random) else {
            search?.pausedUntil = now + Self.noneLeftPause
            session.isSnapshotWanted = !taken.isEmpty
            say(
                "none left", configuration.networkText,
                LeaseReport(
                    .error, .noSubnetIsFree,
                    [
                        "network": configuration.networkText,
                        "first": configuration.limits {
                            "\($0.subnetMinimum)"
                        } _: {
                            "\($0.subnetMinimum)"
                        },
                        "last": configuration.limits {
                            "\($0.subnetMaximum)"
                        } _: {
                            "\($0.subnetMaximum)"
                        },
                        "subnet_len": configuration.limits {
                            "\($0.subnetLength)"
                        } _: {
                            "\($0.subnetLength)"
                        },
                    ]))
            return nil
        }
        decide("\(subnet)", "\(reason): one of the first \(free.count) free ones, by lot")
        return .create(
            key: subnet.key, value: ownValue(for: subnet).json, timeToLive: options.timeToLive)
    }

    /// Remembers what an entry was that is about to be taken over.
    mutating func adopt(_ record: LeaseRegister.Record) {
        let address = record.endpoint(ownEndpoint.address.addressFamily, defaultPort: 0)?.address
        let holder = record.entry.holder
        let adoption = OwnSubnet.Adoption(
            key: record.entry.key, address: address.flatMap { ownAddresses.contains($0) ? nil : $0 },
            holder: holder == identity ? nil : holder)
        search?.adopting = adoption
        guard let holder = adoption.holder else { return }
        say(
            "evidence", "\(holder)",
            LeaseReport(
                .warning,
                .leaseOfAnotherIdentity,
                [
                    "key": record.entry.key, "public_ip": "\(ownEndpoint.address)",
                    "identity_before": "\(holder)",
                ]))
    }

    /// Releases a lease that has ended, where the store does not do so by itself, or one that this node left
    /// behind.
    func release(now: Instant) -> Write? {
        let leftover = register.ownKeys.sorted().first { $0 != own?.key && !isSecondSelfs($0) }
        let ended = register.endings.lazy.filter { $0.key != own?.key && $0.value + Self.releaseGrace <= now }
            .map(\.key).min()
        guard let key = leftover ?? ended, let record = register[key] else { return nil }
        return .delete(key: key, version: record.entry.version)
    }
}
