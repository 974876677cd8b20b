// How it works. Where the two sides of the kernel path meet: the data plane has loaded its programs and feeds their table;
// the control side keeps them attached, as it keeps routes, and says when they are to take nothing.

import Addresses
import Host
import KernelForwarding
import Netlink
import Reconciler
import Synchronization
import Telemetry
import TrafficControl
import Worker

/// What the kernel path asks of the packet threads.
struct PacketThreads: Sendable {
    /// Asks them to catch up with what waits for them.
    var catchUp: @Sendable () -> Void
    /// Whether they have.
    var haveCaughtUp: @Sendable () -> Bool
}

/// The time in which the kernel path takes nothing, and its programs count and note what they leave to the packet threads.
/// What came before they did so, they know nothing of: it has to be through.
private final class KernelPathRest: Sendable {
    private let forwarder: KernelForwarder
    private let packetThreads: PacketThreads
    /// Until when it lasts at least; nil where somebody has looked since.
    private let leastEnd: Mutex<ContinuousClock.Instant?>
    /// What a CPU had in its hands when the programs were attached is in the packet threads' queues by then: it puts it there
    /// within one turn.
    private static let shortest = Duration.seconds(1)

    init(_ forwarder: KernelForwarder, _ packetThreads: PacketThreads) {
        self.forwarder = forwarder
        self.packetThreads = packetThreads
        leastEnd = Mutex(.now + KernelPathRest.shortest)
        forwarder.suspend("it is just being set up")
    }

    func begin() {
        leastEnd.withLock { end in
            end = .now + KernelPathRest.shortest
            forwarder.suspend("what has waited for the packet threads goes first")
        }
        packetThreads.catchUp()
    }

    private func isOver(_ end: ContinuousClock.Instant?) -> Bool {
        end.map { $0 <= .now && packetThreads.haveCaughtUp() } ?? true
    }

    var isOverUnseen: Bool { leastEnd.withLock { $0 != nil && isOver($0) } }

    var waitsForPacketThreads: Bool {
        leastEnd.withLock { $0 != nil } && !packetThreads.haveCaughtUp()
    }

    /// Ends where it is over.
    ///
    /// - Returns: whether it has ended.
    func end() -> Bool {
        leastEnd.withLock { end in
            guard isOver(end) else { return false }
            end = nil
            return true
        }
    }

    /// Has the forwarder take something or not, unless it was told to rest meanwhile.
    func suspend(_ reason: String?) { leastEnd.withLock { if $0 == nil { forwarder.suspend(reason) } } }
}

/// The kernel path of one data plane, between one interface and one TUN device.
final class AttachedKernelPath: Sendable {
    /// What the programs stand at.
    struct Place: Hashable, Sendable {
        /// The underlay's interface.
        var underlay: String
        /// This node's address there.
        var address: IPAddress
        /// The TUN device.
        var tunnel: String
    }

    let place: Place
    let forwarder: KernelForwarder
    /// What the reconciler keeps attached.
    let attachments: [AttachedProgram]
    private let rests: KernelPathRest

    /// Nothing is taken before the first `look` after the rest with which it begins.
    init(_ forwarder: KernelForwarder, at place: Place, packetThreads: PacketThreads) {
        self.place = place
        self.forwarder = forwarder
        let rests = KernelPathRest(forwarder, packetThreads)
        self.rests = rests
        let interfaces = AttachedInterfaces(forwarder)
        attachments = [
            AttachedProgram(
                forwarder.programs.inbound, ofTunnel: place.tunnel, to: place.underlay, .ingress
            ) { index in
                if index != nil { rests.begin() }
                interfaces.update { $0.underlay = index }
            },
            AttachedProgram(
                forwarder.programs.outbound, ofTunnel: place.tunnel, to: place.tunnel, .egress
            ) { index in
                if index != nil { rests.begin() }
                interfaces.update { $0.tunnel = index }
            },
        ]
        let address = place.address
        forwarder.ask { peer in interfaces.leavesByUnderlay(peer, from: address) }
    }

    /// Takes nothing for a while: the packet threads are about to stand still, or have, and flows that the programs know
    /// nothing of may have something waiting for them.
    func rest() { rests.begin() }

    /// Whether the rest is over, and nothing is taken because nobody has looked since.
    var isToBeLookedAt: Bool { rests.isOverUnseen }

    /// Whether it rests until the packet threads have caught up, which those that sleep do when they are asked again.
    var waitsForPacketThreads: Bool { rests.waitsForPacketThreads }

    /// Looks whether the programs' way is the one that the packet threads' datagrams go, and has them take nothing where it
    /// is not.
    @available(*, noasync, message: "it blocks: use onThread")
    func look() {
        guard rests.end() else { return }
        rests.suspend(objection())
    }

    private func objection() -> String? {
        do throws(NetlinkError) {
            guard let link = try RouteSocket().link(named: place.underlay) else {
                return "there is no interface \(place.underlay)"
            }
            guard link.isEthernet else { return "\(place.underlay) has no Ethernet headers" }
            // The outbound program hands a packet to the interface itself, behind the place where it would be encrypted.
            guard try SecurityPolicies.outboundCount() == 0 else {
                return "this node has IPsec policies, which the kernel path would pass by"
            }
            return nil
        } catch {
            return "the kernel does not tell of \(place.underlay): \(error)"
        }
    }

    /// Takes the programs away.
    @available(*, noasync, message: "it blocks: use onThread")
    func detach() {
        forwarder.stop()
        guard let socket = try? RouteSocket() else { return }
        // What cannot be taken away takes nothing any more, and the next start finds it.
        for attachment in attachments { try? attachment.delete(using: socket) }
    }
}

/// The numbers of the interfaces that the programs stand at, for the forwarder and for whoever asks after a peer's way.
private final class AttachedInterfaces: Sendable {
    struct Numbers {
        var underlay: Int32?
        var tunnel: Int32?
    }

    private let forwarder: KernelForwarder
    private let numbers = Mutex(Numbers())
    /// Nil where the kernel gives none; then no peer's way is known.
    private let socket = try? RouteSocket()

    init(_ forwarder: KernelForwarder) { self.forwarder = forwarder }

    func update(_ change: (inout Numbers) -> Void) {
        numbers.withLock {
            change(&$0)
            forwarder.attached(
                underlayIndex: $0.underlay.map(UInt32.init(bitPattern:)),
                tunnelIndex: $0.tunnel.map(UInt32.init(bitPattern:)))
        }
    }

    func leavesByUnderlay(_ peer: IPAddress, from address: IPAddress) -> Bool {
        guard let underlay = numbers.withLock({ $0.underlay }), let socket,
            let path = try? socket.path(to: peer, from: address)
        else { return false }
        return path.interfaceIndex == underlay
    }
}

extension NodeStatus.KernelPath {
    /// How the kernel path of a data plane stands.
    init(of dataPlane: DataPlane, _ path: AttachedKernelPath?) {
        guard let forwarder = dataPlane.kernelPath else {
            guard !dataPlane.awaitsKernelPath else {
                self.init(state: "waiting", detail: "it is just being set up")
                return
            }
            guard let refusal = dataPlane.kernelPathRefusal else {
                self.init(state: "off", detail: "by --kernel-path=off, or by --accept-any-source")
                return
            }
            self.init(state: "refused", detail: refusal.description)
            return
        }
        let standing = forwarder.standing
        let problem = standing.suspension ?? (standing.isAttached ? nil : "its programs are not attached")
        self.init(
            state: problem == nil ? "on" : "waiting", detail: problem,
            attachment: path?.attachments.contains { $0.isAttached } == true ? "clsact" : nil,
            ablePeers: standing.able.count, packetBytes: standing.packetBytes)
    }
}
