import Kit
import NetworkNamespaces
import Telemetry
import Testing

/// A node of both families, one of IPv4 alone and one of IPv6 alone in a network of both: what can reach each other does, and of
/// what cannot each node says which and why.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct MixedFamilyTests {
    private static func configuration(_ type: String) -> String {
        Lab.configuration(of: .dual).replacing("\"udp\"", with: "\"\(type)\"")
    }

    /// Node 1 has both families, node 2 IPv4, node 3 IPv6.
    private func lab(_ type: String) async throws -> Lab {
        let lab = try await Lab(nodes: 3, config: Self.configuration(type), families: .dual)
        try await lab[2].run("ip address del fd20:32::102/64 dev eth0")
        try await lab[3].run("ip address del 172.20.32.103/24 dev eth0")
        return lab
    }

    @Test(arguments: ["udp", "vxlan", "host-gw"])
    func eachIsNamedAndNothingIsSilent(type: String) async throws {
        let lab = try await lab(type)
        var daemons: [LabDaemon] = []
        for node in lab.nodes { daemons.append(try await node.start("--ip-masq")) }
        var subnets: [String] = []
        for daemon in daemons.prefix(2) {
            let status = try await daemon.wait(for: "ready with its peer") {
                $0.isReady && $0.peers.count == 1
            }
            subnets.append(try #require(status.lease?.subnet))
        }
        // A node of the network of both is named by its IPv4 address: one that has none waits, and says for what.
        try await daemons[2].wait(for: "a word on IPv4") { status in
            !status.isReady && status.lease == nil && status.problems.contains { $0.contains("IPv4") }
        }

        var pods: [LabPod] = []
        for (node, subnet) in zip(lab.nodes, subnets) { pods.append(try await node.addPod(in: subnet)) }
        try await pods[0].reaches(pods[1].addresses[0])
        try await pods[1].reaches(pods[0].addresses[0])
        let skipped = try #require(daemons[0].status).skipped
        let problems = try #require(daemons[1].status).problems
        if type == "udp" {
            // Both families go to one address, which is IPv4's.
            try await pods[0].reaches(pods[1].addresses[1])
            try await pods[1].reaches(pods[0].addresses[1])
            #expect(skipped.isEmpty && problems.isEmpty, "\(skipped) \(problems)")
        } else {
            #expect(await pods[0].answers(from: pods[1].addresses[1], count: 1) == 0)
            let key = subnets[1].replacing("/", with: "-").replacing(",", with: "&")
            #expect(skipped.map(\.key) == [key], "\(skipped)")
            #expect(
                skipped.allSatisfy { $0.reason.contains("reached by IPv4 alone: it announces no PublicIPv6") }
            )
            #expect(problems.count == 1, "\(problems)")
            #expect(
                problems.allSatisfy { $0.contains("IPv6, and eth0") && $0.contains("has no IPv6 address") })
            // The other one is whole, and says of it only what it cannot reach.
            #expect(try #require(daemons[0].status).problems.allSatisfy { $0.contains("IPv4 alone") })
        }

        // With what it lacked each becomes whole, without a restart.
        try await lab[2].run("ip address add fd20:32::102/64 dev eth0 nodad")
        try await lab[3].run(
            "ip address add 172.20.32.103/24 dev eth0 && ip route add default via 172.20.32.254")
        for daemon in daemons {
            try await daemon.wait(for: "ready with both peers", seconds: 60) {
                $0.isReady && $0.peers.count == 2 && $0.skipped.isEmpty && $0.problems.isEmpty
            }
        }
        let subnet = try #require(daemons[2].status?.lease?.subnet)
        pods.append(try await lab[3].addPod(in: subnet))
        for (from, to) in [(0, 1), (0, 2), (1, 2), (2, 1)] {
            for address in pods[to].addresses { try await pods[from].reaches(address) }
        }
    }

    /// Networks of one family, and a node of the other alone.
    @Test(arguments: [(Lab.Families.ipv4, "IPv4"), (.ipv6, "IPv6")])
    func aNodeOfTheOtherFamilyIsTold(families: Lab.Families, word: String) async throws {
        let lab = try await Lab(nodes: 2, config: Lab.configuration(of: families), families: .dual)
        try await lab[2].run(
            families == .ipv4
                ? "ip address del 172.20.32.102/24 dev eth0" : "ip address del fd20:32::102/64 dev eth0")
        let first = try await lab[1].start()
        let second = try await lab[2].start()
        try await first.healed()
        try await second.wait(for: "a word on \(word)") { status in
            !status.isReady && status.problems.contains { $0.contains(word) }
        }
        // It took no subnet that nobody could send to.
        #expect(second.status?.lease == nil && first.status?.peers.isEmpty == true)
        // A lease that somebody wrote of the other family is no peer, with the reason.
        let (key, value) =
            families == .ipv4
            ? ("0.0.0.0-0&fd00:96:0:9::-64", #"{"PublicIP":"0.0.0.0","PublicIPv6":"fd20:32::109"}"#)
            : ("100.96.9.0-24", #"{"PublicIP":"172.20.32.109","PublicIPv6":null}"#)
        try lab.write("store/subnets/\(key)", value)
        let status = try await first.wait(for: "the lease among the skipped ones") { !$0.skipped.isEmpty }
        #expect(
            status.skipped.map(\.key) == [key] && status.skipped[0].reason.contains(word), "\(status.skipped)"
        )
        #expect(status.peers.isEmpty)
    }
}
