package import Addresses
package import JSON
package import Reconciler

// How it works. A backend is one way to carry packets between nodes, as flannel's network configuration names it
// (`Backend.Type`). A type that conforms to `Backend` is that way, and a value of it is what one network's
// configuration makes of it. All that is the backend's own (its keys, what a node announces for it, how many bytes it
// adds, what it wants of the kernel) stands in its folder; `BackendRegistry.all` lists it. docs/adr/0077.

/// A way to carry packets between the nodes of a network, as the network's configuration sets it up.
///
/// Where the text says that only another backend of flannel's needs a requirement, udp meets it all the same.
package protocol Backend: Sendable, Hashable, CustomStringConvertible {
    /// How `Backend.Type` names it, in lower case.
    static var typeName: String { get }

    /// What its nodes write as `BackendType` into their leases; nil where they write none, as flannel's udp does.
    static var announcedType: String? { get }

    /// The keys of the configuration's `Backend` that it reads beside `Type`, in lower case.
    static var keys: Set<String> { get }

    /// Whether, in a network of both families, packets of each go to the other nodes' addresses of the same family
    /// (vxlan, host-gw). Else both go to one address (udp): IPv4, and IPv6 where the network has no IPv4.
    static var hasEndpointOfEachFamily: Bool { get }

    /// Whether it is also for networks with IPv6; a network with IPv6 and a backend that is not is refused by name.
    static var carriesIPv6: Bool { get }

    /// Whether its packets pass through this process (udp), and not through the kernel alone (vxlan, host-gw).
    static var hasDataPlane: Bool { get }

    /// Whether something is to be done on this machine before a node announces itself (`prepare`). Until it is done, the
    /// node takes no subnet and writes nothing into its lease.
    static var needsPreparation: Bool { get }

    /// Whether its configuration says which programs run on each node (extension): then a daemon goes by the one that it
    /// began with, and by another when it is started anew.
    static var runsCommands: Bool { get }

    /// The JSON that a node of a cluster announces where there is nothing to announce: flannel's nodes must be able to
    /// read it as that.
    static var nothingAnnounced: String { get }

    /// Makes what a configuration without `Backend` means: flannel's values.
    init()

    /// Reads the members of the configuration's `Backend`.
    ///
    /// - Throws: which key does not hold, its value and the rule.
    init(reading settings: BackendSettings) throws(BackendError)

    /// Reads `BackendData` of another node's lease; what the backend does not know of it is left out.
    ///
    /// - Parameter value: nil where the lease has none.
    /// - Returns: nil where there is nothing in it for this backend.
    /// - Throws: what is wrong with it, as the end of a sentence that begins with the lease's key.
    static func data(reading value: JSONValue?) throws(BackendError) -> (any BackendData)?

    /// The port that packets are sent to where a lease names none, host byte order (udp, vxlan); 0 where there are no
    /// ports (host-gw).
    var port: UInt16 { get }

    /// The overlay's MTU in bytes that the configuration asks for over a family; nil where it follows the underlay's.
    func mtu(over family: AddressFamily) -> Int?

    /// What this node announces for the backend in its lease.
    ///
    /// - Parameters:
    ///   - subnet: this node's, of one family.
    ///   - port: the port of this node, which backends of the kernel do not have; nil where others go by the network's.
    /// - Returns: nil where there is nothing to announce.
    func data(for subnet: IPPrefix, port: UInt16?) -> (any BackendData)?

    /// What this node announces for the backend in its lease, once it is prepared (wireguard: its key; extension: what a
    /// command printed).
    ///
    /// - Parameter prepared: what `prepare` gave.
    /// - Returns: nil where there is nothing to announce.
    func data(
        for subnet: IPPrefix, port: UInt16?, prepared: BackendAnnouncement?
    ) -> (any BackendData)?

    /// Does what is to be done on this machine before the node announces itself, in the network namespace of the calling
    /// thread. It is called once for each configuration, and again where it failed.
    ///
    /// - Returns: what of it others are told; nil for nothing.
    /// - Throws: `ItemProblem`, with what to do.
    @available(*, noasync, message: "it blocks: use onThread")
    func prepare(on machine: BackendMachine) throws -> BackendAnnouncement?

    /// Why a node that announces this cannot be sent to, as the end of a sentence that begins with its lease's key; nil
    /// where it can (vxlan: without a hardware address it cannot).
    ///
    /// - Parameter announced: nil where it announces nothing.
    func refusal(of announced: BackendAnnouncement?) -> String?

    /// The bytes that the outer headers of one packet take.
    func overhead(over family: AddressFamily) -> Int

    /// The name of the interface that packets for the peers leave by.
    ///
    /// - Parameter place: where on this machine, of one family.
    func interfaceName(in place: BackendPlace) -> String

    /// What the kernel must have, in the order in which it can be made, for one family. A network of both has it twice.
    ///
    /// - Parameters:
    ///   - place: where on this machine, of one family.
    ///   - peers: the nodes to reach, ordered by subnet (vxlan: a neighbour entry for each; host-gw: a route); empty
    ///     where the backend has a data plane, which is told of them instead.
    func desiredItems(in place: BackendPlace, peers: [BackendPeer]) -> [any DesiredItem]

    /// The interfaces and next hops by which packets may leave for a peer; nil where the whole network is routed to
    /// `interfaceName` itself, and none where it is nobody's here to say how they leave (alloc, extension).
    func hops(to peer: BackendPeer, in place: BackendPlace) -> [BackendHop]?
}

extension Backend {
    /// Every announcement will do.
    package func refusal(of _: BackendAnnouncement?) -> String? { nil }

    /// It is for both families.
    package static var carriesIPv6: Bool { true }

    /// There is nothing to do first.
    package static var needsPreparation: Bool { false }

    /// It runs nobody's programs.
    package static var runsCommands: Bool { false }

    /// An empty object.
    package static var nothingAnnounced: String { "{}" }

    /// There is nothing to do first, and so nothing to tell.
    ///
    /// - Throws: nothing.
    @available(*, noasync, message: "it blocks: use onThread")
    package func prepare(on _: BackendMachine) throws -> BackendAnnouncement? { nil }

    /// Nothing is announced.
    package func data(for _: IPPrefix, port _: UInt16?) -> (any BackendData)? { nil }

    /// What is announced does not depend on what is done first.
    package func data(
        for subnet: IPPrefix, port: UInt16?, prepared _: BackendAnnouncement?
    ) -> (any BackendData)? {
        data(for: subnet, port: port)
    }

    /// The whole network is routed to the one device.
    package func hops(to _: BackendPeer, in _: BackendPlace) -> [BackendHop]? { nil }

    /// What a node announces for one family of its subnet.
    ///
    /// - Parameter preparation: what was done first; of another backend than this it counts for nothing.
    package func data(
        for subnet: IPPrefix, port: UInt16?, preparation: BackendPreparation?
    ) -> (any BackendData)? {
        data(
            for: subnet, port: port,
            prepared: preparation?.backend == ConfiguredBackend(self) ? preparation?.announced : nil)
    }

    /// Whether a node may announce itself, as far as this backend goes.
    ///
    /// - Parameter preparation: what was done first.
    package func isReady(_ preparation: BackendPreparation?) -> Bool {
        !Self.needsPreparation || preparation?.backend == ConfiguredBackend(self)
    }
}

/// Where on this machine a backend works, for one family of addresses.
package struct BackendPlace: Sendable, Hashable {
    /// The overlay.
    package var network: IPPrefix
    /// This node's subnet.
    package var subnet: IPPrefix
    /// `--tun-name`: what the device of a backend is called whose packets pass through this process.
    package var tunnelName: String
    /// What devices are called, beside their names, that this daemon has the kernel make; an earlier run of it called
    /// them the same.
    package var alias: String
    /// The interface that outer packets leave by.
    package var underlayName: String
    /// Its number.
    package var underlayIndex: Int32
    /// This node's address there; of the overlay's family where the backend has an endpoint of each.
    package var underlayAddress: IPAddress
    /// Where the others send to: another address than that one behind a NAT.
    package var publicAddress: IPAddress
    /// The same node's IPv6, where this is its IPv4 and the network has both; for what is done once for both (extension).
    package var ipv6: BackendSide?
    /// The largest inner packet in bytes.
    package var mtu: Int
    /// A device's transmit queue length in packets.
    package var queueLength: Int
    /// What of the machine does not depend on the network.
    package var machine: BackendMachine
    /// What was announced of what `Backend.prepare` did; nil for nothing.
    package var prepared: BackendAnnouncement?

    /// Names a place.
    package init(
        network: IPPrefix, subnet: IPPrefix, tunnelName: String, alias: String, underlayName: String,
        underlayIndex: Int32, underlayAddress: IPAddress, publicAddress: IPAddress, mtu: Int,
        queueLength: Int,
        machine: BackendMachine = BackendMachine(), prepared: BackendAnnouncement? = nil
    ) {
        self.machine = machine
        self.prepared = prepared
        self.network = network
        self.subnet = subnet
        self.tunnelName = tunnelName
        self.alias = alias
        self.underlayName = underlayName
        self.underlayIndex = underlayIndex
        self.underlayAddress = underlayAddress
        self.publicAddress = publicAddress
        self.mtu = mtu
        self.queueLength = queueLength
    }

    /// The tunnel device that a data plane of this process makes, as far as this family of the overlay goes.
    ///
    /// - Parameter overhead: the bytes of the outer headers.
    package func tunnel(overhead: Int) -> TunnelSettings {
        TunnelSettings(
            interfaceName: tunnelName, address: subnet.address, network: network, mtu: mtu,
            overhead: overhead,
            transmitQueueLength: queueLength)
    }
}

/// One family of a node, as far as a backend goes by it that does one thing for both.
package struct BackendSide: Sendable, Hashable {
    /// The node's subnet.
    package var subnet: IPPrefix
    /// Where the others send to.
    package var address: IPAddress

    /// Names a side.
    package init(subnet: IPPrefix, address: IPAddress) {
        self.subnet = subnet
        self.address = address
    }
}

/// What of this machine a backend goes by before there is a subnet.
package struct BackendMachine: Sendable, Hashable {
    /// The variables of the environment that commands get (extension), beside those that say which node it is about.
    package var environment: [String: String]

    /// The file that has this node's private key (wireguard).
    package var keyFile: String
    /// What devices are called, beside their names, that this daemon has the kernel make.
    package var alias = ""

    /// Takes over the process's environment, without flanneld's flags in it: passwords are among them. The key's file is
    /// flanneld's, which `WIREGUARD_KEY_FILE` may name otherwise.
    package init(environment: [String: String] = [:]) {
        keyFile = environment["WIREGUARD_KEY_FILE"] ?? "/run/flannel/wgkey"
        self.environment = environment.filter { !$0.key.hasPrefix("FLANNELD_") }
    }
}

/// What `Backend.prepare` did.
package struct BackendPreparation: Sendable, Hashable {
    /// The backend that it was done for.
    package var backend: ConfiguredBackend
    /// What of it others are told; nil for nothing.
    package var announced: BackendAnnouncement?

    /// Names what was done.
    package init(_ backend: any Backend, _ announced: BackendAnnouncement?) {
        self.backend = ConfiguredBackend(backend)
        self.announced = announced
    }
}

/// A way to a peer: by an interface, to a next hop there.
package struct BackendHop: Sendable, Hashable {
    /// The interface's name.
    package var interfaceName: String
    /// The next hop.
    package var gateway: IPAddress

    /// Names a way.
    package init(interfaceName: String, gateway: IPAddress) {
        self.interfaceName = interfaceName
        self.gateway = gateway
    }
}

/// What a node announces for its backend: `BackendData` of its lease.
package protocol BackendData: Sendable, Hashable {
    /// The JSON text, with the keys in flannel's case and order.
    var json: String { get }

    /// The port that this node alone receives on, host byte order; nil where the network's configuration has it.
    var port: UInt16? { get }
}

/// Another node, as far as a backend goes by it.
package struct BackendPeer: Sendable, Hashable {
    /// What to send to it, of one family.
    package var subnet: IPPrefix
    /// Its address on the underlay; of the same family where the backend has an endpoint of each.
    package var address: IPAddress
    /// What it announced for the backend; nil for nothing.
    package var announced: BackendAnnouncement?
    /// The same node's IPv6, where this is its IPv4 and it has both; for what is done once for both (extension).
    package var ipv6: BackendSide?

    /// Makes a peer.
    package init(subnet: IPPrefix, address: IPAddress, announced: BackendAnnouncement?) {
        self.subnet = subnet
        self.address = address
        self.announced = announced
    }
}

/// Why a backend cannot use what it read.
package struct BackendError: Error, Sendable, Hashable, CustomStringConvertible {
    /// What is wrong, for an operator.
    package let description: String

    /// Makes an error.
    package init(_ description: String) { self.description = description }

    /// Makes an error of one key: which, its value, and the rule that it breaks.
    init(key: String, _ value: JSONValue, rule: String) { self.init("\(key) is \(value): \(rule)") }
}
