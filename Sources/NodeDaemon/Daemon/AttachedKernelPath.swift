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

/// The kernel path of one data plane, between one interface and one TUN device.
final class AttachedKernelPath: Sendable {
    /// What the programs stand at.
    struct Place: Hashable, Sendable {
        /// The underlay's interface.
        var underlay: String
        /// This node's address there.
        var address: IPv4Address
        /// The TUN device.
        var tunnel: String
    }

    let place: Place
    let forwarder: KernelForwarder
    /// What the reconciler keeps attached.
    let attachments: [AttachedProgram]
    private let hasCaughtUp: @Sendable () -> Bool
    /// Until when everything is left to the packet threads at least; nil where somebody has looked since.
    private let restEnd: Mutex<ContinuousClock.Instant?>
    /// From when packet threads have taken in what waited for them until it is sent and written.
    private static let shortestRest = Duration.seconds(1)

    /// Nothing is taken before the first `look` after the rest with which it begins.
    ///
    /// - Parameter hasCaughtUp: whether the packet threads have taken in what waited while none of them ran.
    init(
        _ forwarder: KernelForwarder, at place: Place,
        packetThreads hasCaughtUp: @escaping @Sendable () -> Bool
    ) {
        self.hasCaughtUp = hasCaughtUp
        self.place = place
        self.forwarder = forwarder
        restEnd = Mutex(.now + AttachedKernelPath.shortestRest)
        forwarder.suspend("it is just being set up")
        let interfaces = AttachedInterfaces(forwarder)
        attachments = [
            AttachedProgram(
                forwarder.programs.inbound, ofTunnel: place.tunnel, to: place.underlay, .ingress
            ) { index in interfaces.update { $0.underlay = index } },
            AttachedProgram(
                forwarder.programs.outbound, ofTunnel: place.tunnel, to: place.tunnel, .egress
            ) { index in interfaces.update { $0.tunnel = index } },
        ]
        let address = place.address
        forwarder.ask { peer in interfaces.leavesByUnderlay(peer, from: address) }
    }

    /// Takes nothing for a while: the packet threads are about to stand still, or have, and what it took then would pass what
    /// waits for them.
    func rest() {
        restEnd.withLock { end in
            end = .now + AttachedKernelPath.shortestRest
            forwarder.suspend("what has waited for the packet threads goes first")
        }
    }

    /// Whether the rest is over, and nothing is taken because nobody has looked since.
    var isToBeLookedAt: Bool { restEnd.withLock { $0.map { $0 <= .now } ?? false } && hasCaughtUp() }

    /// Looks whether the programs' way is the one that the packet threads' datagrams go, and has them take nothing where it
    /// is not.
    @available(*, noasync, message: "it blocks: use onThread")
    func look() {
        let isOver = restEnd.withLock { end in
            if let time = end, time > .now || !hasCaughtUp() { return false }
            end = nil
            return true
        }
        guard isOver else { return }
        let objection = objection()
        // Unless it was told to rest meanwhile.
        restEnd.withLock { if $0 == nil { forwarder.suspend(objection) } }
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

    func leavesByUnderlay(_ peer: IPv4Address, from address: IPv4Address) -> Bool {
        guard let underlay = numbers.withLock({ $0.underlay }), let socket,
            let path = try? socket.path(to: .v4(peer), from: .v4(address))
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
                let hasIPv4 = dataPlane.configuration.underlay.address.v4 != nil
                self.init(
                    state: "off",
                    detail: hasIPv4
                        ? "by --kernel-path=off, or by --accept-any-source"
                        : "it carries IPv4 over IPv4, and the other nodes are reached by IPv6")
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
