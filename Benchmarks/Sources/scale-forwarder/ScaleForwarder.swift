import Addresses
import ArgumentParser
import Counters
import EndpointArgument
import Forwarding
import Glibc
import Synchronization
import Worker

/// twill's data plane without its control side: a forwarding table of any size, replaced at any rate, so that neither
/// etcd nor a directory of leases is what is measured.
@main
struct ScaleForwarder: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "scale-forwarder",
        abstract: "Forwards with a forwarding table of many peers that all lead to one node.",
        discussion: """
            Makes the TUN and leaves its address, its routes and its state to `ip`. Prints twilld's counters and
            `changes`, the tables published, as name=value on SIGUSR1.
            """)

    @Option(help: "Name of the TUN device to make.")
    var tun: String

    @Option(help: "Address and port of the underlay socket.", transform: parseEndpoint)
    var bind: Endpoint

    @Option(help: "Inner prefix of this node.", transform: parsePrefix)
    var local: IPv4Prefix

    @Option(help: "First peer's inner prefix; the others' follow it without a gap.", transform: parsePrefix)
    var first: IPv4Prefix

    @Option(
        name: .customLong("local-ipv6"), help: "Inner IPv6 prefix of this node.", transform: parsePrefixIPv6)
    var localIPv6: IPv6Prefix?

    @Option(
        name: .customLong("first-ipv6"), help: "First peer's inner IPv6 prefix.", transform: parsePrefixIPv6)
    var firstIPv6: IPv6Prefix?

    @Option(help: "Peers.")
    var peers: Int

    @Option(help: "Where all of them are.", transform: parseEndpoint)
    var endpoint: Endpoint

    @Option(help: "Changes of the table a second: each replaces one peer's port; 0: none.")
    var changes: Double = 0

    @Flag(help: "What goes to the peers is spread over time, as twilld does it towards flanneld.")
    var paced = false

    @Option(help: "Largest inner packet in bytes.")
    var mtu = 1472

    func validate() throws {
        guard (1...ForwardingSnapshot.peerLimit).contains(peers) else {
            throw ValidationError("--peers \(peers): 1 to \(ForwardingSnapshot.peerLimit)")
        }
        guard changes >= 0 else { throw ValidationError("--changes \(changes): 0 or more") }
    }

    func run() throws {
        Signals.install()
        let dataPlane = try DataPlane.started(
            DataPlaneConfiguration(
                tunnelName: tun, underlay: bind, mtu: mtu, tunnelAddress: local.address,
                tunnelAddressIPv6: localIPv6?.address))
        var routes = ForwardingRoutes(
            localIPv4: local, localIPv6: localIPv6,
            peers: (0..<peers).map { index in
                let step = UInt32(index) << UInt32(32 - first.length)
                return ForwardingPeer(
                    ipv4: IPv4Prefix(IPv4Address(bits: first.address.bits + step), length: first.length),
                    ipv6: index == 0 ? firstIPv6 : nil, endpoint: endpoint, takesBursts: !paced)
            })
        dataPlane.publish(routes)
        var published = 0
        let start = secondsNow()
        while !Signals.stop.load(ordering: .relaxed) {
            if Signals.report.exchange(false, ordering: .relaxed) {
                report(dataPlane.counters(), changes: published)
            }
            // Waking up more often than there are changes would be measured as well. A signal ends a sleep at once.
            let wait = changes > 0 ? start + Double(published) / changes - secondsNow() : 0.1
            guard wait <= 0 else {
                usleep(UInt32(min(wait, 0.1) * 1e6) + 1)
                continue
            }
            // The last peer's, which no packet goes to unless it is the only one.
            let last = routes.peers.count - 1
            routes.peers[last].endpoint = Endpoint(
                address: endpoint.address, port: endpoint.port ^ UInt16(published & 1))
            dataPlane.publish(routes)
            published += 1
        }
        dataPlane.stop()
    }

    private func report(_ totals: CounterTotals, changes: Int) {
        var text = "changes=\(changes)\n"
        for counter in Counter.allCases { text += "\(counter.name)=\(totals[counter])\n" }
        _ = text.withCString { write(STDERR_FILENO, $0, text.utf8.count) }
    }
}

/// What a signal asked for.
private enum Signals {
    static let report = Atomic<Bool>(false)
    static let stop = Atomic<Bool>(false)

    static func install() {
        set(SIGUSR1) { _ in Signals.report.store(true, ordering: .relaxed) }
        set(SIGTERM) { _ in Signals.stop.store(true, ordering: .relaxed) }
        set(SIGINT) { _ in Signals.stop.store(true, ordering: .relaxed) }
    }

    /// Without `SA_RESTART`, so that a sleep ends.
    private static func set(_ number: Int32, _ handler: @escaping @convention(c) (Int32) -> Void) {
        var action = sigaction()
        action.__sigaction_handler.sa_handler = handler
        sigaction(number, &action, nil)
    }
}

private func secondsNow() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
}

private func parsePrefixIPv6(_ text: String) throws -> IPv6Prefix {
    guard let prefix = IPv6Prefix(text) else { throw ValidationError("\(text): expected ADDRESS/LENGTH") }
    return prefix
}

private func parsePrefix(_ text: String) throws -> IPv4Prefix {
    guard let prefix = IPv4Prefix(text) else { throw ValidationError("\(text): expected ADDRESS/LENGTH") }
    return prefix
}
