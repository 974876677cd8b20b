import Addresses
import ArgumentParser
import EndpointArgument
import Glibc

/// The plain forwarder that the harness compares with: what flannel's UDP backend does, one packet a system
/// call (`read`, `sendto`; `recv`, `write`), or with `--batch` the socket side in `sendmmsg` and `recvmmsg`.
/// It shares a network with flannel and twill: one bare inner IPv4 packet is the whole payload of a datagram.
@main
struct Baseline: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "baseline",
        abstract: "Forwards IPv4 packets between a TUN and UDP, one packet a system call.",
        discussion: """
            Makes the TUN and leaves its address, its route and its state to `ip`. Prints its counters as
            name=value on SIGUSR1, and on SIGTERM and SIGINT before it ends.
            """)

    @Option(help: "Name of the TUN device to make.")
    var tun: String

    @Option(help: "Address and port of the underlay socket.", transform: parseEndpoint)
    var bind: Endpoint

    @Option(
        name: .customLong("peer"), help: "A peer, as SUBNET=ADDRESS:PORT; repeatable.", transform: Peer.parse)
    var peers: [Peer]

    @Option(help: "Longest inner packet in bytes.")
    var mtu = 1472

    @Option(help: "Packets a sendmmsg or recvmmsg; 1 uses neither.")
    var batch = 1

    func validate() throws {
        guard (1...1024).contains(batch) else { throw ValidationError("--batch \(batch): 1 to 1024") }
        guard (68...65_507).contains(mtu) else { throw ValidationError("--mtu \(mtu): 68 to 65507") }
    }

    func run() throws {
        StopRequest.install()
        let tunDescriptor = try openTUN(name: tun)
        let socketDescriptor = try openUDPSocket(bind)
        var forwarder = Forwarder(
            tun: tunDescriptor, socket: socketDescriptor, peers: peers, mtu: mtu, batch: batch)
        try forwarder.run()
    }
}

/// A peer's overlay subnet and where its datagrams go.
struct Peer: Sendable {
    let subnet: IPv4Prefix
    let endpoint: Endpoint

    /// Parses `10.0.2.0/24=192.0.2.2:8285`.
    static func parse(_ text: String) throws -> Peer {
        let parts = text.split(separator: "=", maxSplits: 1)
        guard parts.count == 2, let subnet = IPv4Prefix(parts[0]) else {
            throw ValidationError("\(text): expected SUBNET=ADDRESS:PORT")
        }
        return Peer(subnet: subnet, endpoint: try parseEndpoint(String(parts[1])))
    }
}
