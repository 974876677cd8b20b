// The faults that can befall a node, one table for all tests that go through them: what causes each, which component must
// be told of with what effect and words, and how it ends. TruthTableTests plays them one by one, HostileWorldTests many
// at once.

import Health
import Kit

/// Something that can befall the first of a world's two nodes, and how that must be told.
struct Fault: Sendable {
    /// How it must be told.
    enum Telling: Sendable {
        /// The node lives with it, and says nothing for as long as it lasts.
        case silent
        /// The component has a problem of that effect, whose sentence holds all of the words.
        case problem(Component.Kind, Problem.Effect, words: [String])
    }

    /// What happens, in words.
    let name: String
    let telling: Telling
    /// The components that may be told of as well while it lasts, or for a moment.
    let tolerated: Set<Component.Kind>
    /// Whether pods reach each other while it lasts.
    let packetsFlow: Bool
    let begin: @Sendable (World) async throws -> Void
    let end: @Sendable (World) async throws -> Void

    init(
        _ name: String, _ telling: Telling, tolerated: Set<Component.Kind> = [], packetsFlow: Bool = true,
        begin: @escaping @Sendable (World) async throws -> Void,
        end: @escaping @Sendable (World) async throws -> Void = { _ in }
    ) {
        self.name = name
        self.telling = telling
        self.tolerated = tolerated
        self.packetsFlow = packetsFlow
        self.begin = begin
        self.end = end
    }

    /// A fault that shell commands on the first node cause and end.
    init(
        _ name: String, _ telling: Telling, tolerated: Set<Component.Kind> = [], packetsFlow: Bool = true,
        _ begin: String, _ end: String = "true"
    ) {
        self.init(
            name, telling, tolerated: tolerated, packetsFlow: packetsFlow,
            begin: { try await $0.lab[1].run(begin) }, end: { try await $0.lab[1].run(end) })
    }

    /// The component that must be told of.
    var kind: Component.Kind? {
        guard case .problem(let kind, _, _) = telling else { return nil }
        return kind
    }
}

extension Fault {
    /// All of them. The second node has 172.20.32.102, and its subnet is the world's `peerSubnet`.
    static let table: [Fault] =
        underlay + routes + firewalls + settings + store + files + process + clocks

    private static let underlay = [
        Fault(
            "VPN with a better default route", .silent,
            "ip link add tun5 type veth peer name far-tun5 && ip link set far-tun5 up && ip address add 10.77.0.2/24 dev tun5 && ip link set tun5 up"
                + " && ip route add default via 10.77.0.1 dev tun5 metric 1",
            "ip link delete tun5"),
        Fault(
            "address gone for a moment", .silent, tolerated: [.underlay, .route, .tunnel],
            "ip address delete 172.20.32.101/24 dev eth0; ip address add 172.20.32.101/24 dev eth0"
                + " && ip route add default via 172.20.32.254"),
        Fault(
            // A data plane that is made anew meanwhile has no address to bind.
            "address gone", .problem(.underlay, .cutOff, words: ["172.20.32.101", "eth0"]),
            tolerated: [.route, .path, .store, .peer, .tunnel, .dataPlane], packetsFlow: false,
            "ip address delete 172.20.32.101/24 dev eth0",
            "ip address add 172.20.32.101/24 dev eth0 && ip route add default via 172.20.32.254"),
        Fault(
            "interface down", .problem(.underlay, .cutOff, words: ["eth0"]),
            tolerated: [.route, .path, .store, .peer, .tunnel], packetsFlow: false,
            "ip link set eth0 down", "ip link set eth0 up && ip route add default via 172.20.32.254"),
    ]

    private static let routes = [
        Fault(
            "overlay route deleted", .silent, tolerated: [.route], "ip route delete 100.96.0.0/16 || true"),
        Fault(
            "VPN with a policy route for the pods' network",
            .problem(.route, .cutOff, words: ["tun6", "52"]), packetsFlow: false,
            "ip link add tun6 type veth peer name far-tun6 && ip link set far-tun6 up && ip link set tun6 up"
                + " && ip route add 100.64.0.0/10 dev tun6 table 52 && ip rule add table 52 priority 5270",
            "ip rule delete priority 5270; ip link delete tun6"),
        Fault(
            "somebody's more specific route to a peer's subnet",
            .problem(.route, .cutOff, words: ["tun7"]), packetsFlow: false,
            begin: {
                try await $0.lab[1].run(
                    "ip link add tun7 type veth peer name far-tun7 && ip link set far-tun7 up && ip link set tun7 up && ip route add \($0.peerSubnet.dropLast(2))25 dev tun7"
                )
            },
            end: { try await $0.lab[1].run("ip link delete tun7") }),
        Fault(
            "a route to the peer that is narrower than the interface",
            .silent,
            "ip route add 172.20.32.102/32 dev eth0 mtu 1400", "ip route delete 172.20.32.102/32 dev eth0"),
    ]

    private static let firewalls = [
        Fault(
            "firewall that rejects what is forwarded",
            .problem(.firewall, .cutOff, words: ["strict", "forward"]), packetsFlow: false,
            "nft 'add table inet strict; add chain inet strict forward"
                + " { type filter hook forward priority 10; policy accept; };"
                + " add rule inet strict forward counter reject'",
            "nft delete table inet strict"),
        Fault(
            "FORWARD drops by policy after the start", .silent, tolerated: [.firewall],
            "iptables -P FORWARD DROP", "iptables -P FORWARD ACCEPT"),
        Fault(
            "all rules flushed", .silent, tolerated: [.firewall],
            "iptables -F FORWARD && iptables -t nat -F POSTROUTING"),
        Fault(
            "firewall that drops the tunnel's datagrams",
            .problem(.firewall, .cutOff, words: ["8285"]), tolerated: [.path, .peer], packetsFlow: false,
            "nft 'add table ip hard; add chain ip hard input { type filter hook input priority 0; policy accept; };"
                + " add rule ip hard input udp dport 8285 drop'",
            "nft delete table ip hard"),
    ]

    private static let settings = [
        Fault(
            "the machine forwards no more", .problem(.setting, .cutOff, words: ["ip_forward"]),
            tolerated: [.route], packetsFlow: false, "sysctl -qw net.ipv4.ip_forward=0",
            "sysctl -qw net.ipv4.ip_forward=1"),
        Fault(
            "the tunnel device deleted", .silent, tolerated: [.tunnel, .route, .setting, .dataPlane, .path],
            "ip link delete flannel0 || true"),
        Fault(
            "another MTU on the tunnel device", .silent, tolerated: [.tunnel],
            "ip link set flannel0 mtu 1300 || true"
        ),
    ]

    private static let store = [
        Fault(
            "etcd that takes requests and answers none",
            .problem(.store, .degraded, words: [LabEtcd.address]),
            begin: { $0.etcd.pause() }, end: { $0.etcd.resume() }),
        Fault(
            "network configuration that is none",
            .problem(.configuration, .degraded, words: ["configuration"]),
            begin: { try await $0.etcd.control("put /coreos.com/network/config '{nonsense'") },
            end: { try await $0.etcd.control("put /coreos.com/network/config '\(Lab.configuration)'") }),
        Fault(
            "a lease that names nobody", .problem(.peer, .degraded, words: ["100.96.250.0-24"]),
            begin: {
                try await $0.etcd.control(
                    "put /coreos.com/network/subnets/100.96.250.0-24 '{\"PublicIP\":\"x\"}'")
            },
            end: { try await $0.etcd.control("del /coreos.com/network/subnets/100.96.250.0-24") }),
        Fault(
            "this node's own lease deleted", .silent, tolerated: [.lease],
            begin: { try await $0.etcd.control("del /coreos.com/network/subnets/\($0.ownKey)") }),
    ]

    private static let files = [
        Fault(
            "subnet.env deleted", .silent, tolerated: [.subnetFile],
            begin: { try await $0.lab[1].run("rm -f \($0.disk)/subnet.env") },
            end: { world in
                _ = try await until("subnet.env") {
                    await world.lab[1].succeeds("test -s \(world.disk)/subnet.env") ? true : nil
                }
            }),
        Fault(
            "full disk", .problem(.subnetFile, .degraded, words: ["subnet.env"]),
            begin: {
                try await $0.lab[1].run(
                    "cd \($0.disk) && rm -f subnet.env && (dd if=/dev/zero of=full bs=4k 2>/dev/null || true)"
                )
                // The daemon may have been faster than dd: then its file takes the last room.
                try await $0.lab[1].run(
                    "cd \($0.disk) && until [ ! -e subnet.env ]; do rm -f subnet.env; dd if=/dev/zero bs=4k >>full 2>/dev/null || true; sleep 0.1; done"
                )
            },
            end: { try await $0.lab[1].run("rm -f \($0.disk)/full") }),
    ]

    private static let process = [
        Fault(
            "stalled log", .problem(.log, .degraded, words: ["log"]),
            begin: { $0.stopReadingTheLog() }, end: { $0.readTheLogOn() }),
        Fault(
            "1,000 idle connections", .silent, tolerated: [.limit, .endpoint],
            begin: { try await $0.connect(1_000) }, end: { $0.disconnect() }),
    ]

    /// The last of the table: libfaketime moves the runtime's timers with the clocks, and some of them do not come back with
    /// these, so that what follows would wait for what nobody does any more.
    private static let clocks = [
        Fault(
            "clock two days ahead", .silent, tolerated: [.clock],
            begin: { try $0.lab.write("node1/clock", "+2d\n") },
            end: { try $0.lab.write("node1/clock", "+0\n") }),
        Fault(
            "clock three days behind", .silent, tolerated: [.clock],
            begin: { try $0.lab.write("node1/clock", "-3d\n") },
            end: { try $0.lab.write("node1/clock", "+0\n") }),
    ]
}
