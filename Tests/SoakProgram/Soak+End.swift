import Addresses
import Disturbances
import FoundationEssentials
import Kit
import NetworkNamespaces
import Seeded

// What can be told only at the end: where packets really go, whether iperf3 still flows, what grew.

extension Soak {
    /// What a warm process may still take: the allocator's reserves for lists of up to 60 leases and for status
    /// answers.
    private static let growthBytes = 4 << 20
    private static let growthDescriptors = 4

    func end() async throws {
        try await settle()
        // The most that is warm, and the last look at it.
        sample()
        try await expectTraffic()
        var dice = SeededRandom(seed: UInt64(options.seed))
        try await play(.foreignLeasesWritten(count: 1 + dice.below(20)), &dice)
        try await settle()
        let routes = try await expectTrueRoutes()
        try expectNoGrowth()
        tellSummary()
        let growth = nodes[0].longestLife == nil ? "too short a run to tell of growth" : "no growth"
        say(
            "every node has its lease; \(routes) routes to foreign nodes seen on the wire, none wrong; \(growth)"
        )
        say("soak: passed: \(eventNumber) events, seed \(options.seed)")
    }

    private func expectTraffic() async throws {
        for node in present {
            guard let pod = node.pod else { continue }
            _ = try await until(
                "iperf3's packets in the pod of node \(node.host.number)",
                seconds: Self.healTime / .seconds(1)
            ) {
                let before = try await pod.interface("eth0")?.receivedBytes ?? 0
                try await Task.sleep(for: .milliseconds(500))
                let after = try await pod.interface("eth0")?.receivedBytes ?? 0
                return after > before + 100_000 ? true : nil
            }
        }
    }

    /// Sends from each pod to a pod of each foreign node, and looks on the wire where each node really sends that:
    /// asked of no daemon.
    ///
    /// - Returns: how many ways were seen.
    private func expectTrueRoutes() async throws -> Int {
        let capture = try await PacketCapture.start(on: sinks, interface: sinks.interface, blocks: 16)
        for node in present {
            guard let pod = node.pod else { continue }
            for third in DisturbedNetwork.foreignSubnets {
                let address = IPv4Address(bits: 0x6460_0002 | UInt32(third) << 8)
                try await LabSocket.sending(to: address, port: 9, from: pod).send()
            }
        }
        let expected = present.flatMap { node in
            network.foreign.compactMap { key, sink -> String? in
                guard let third = key.split(separator: ".").dropFirst(2).first.flatMap({ Int($0) }),
                    DisturbedNetwork.foreignSubnets.contains(third)
                else { return nil }
                return "\(network[node.host.number].address) to \(sink) for 100.96.\(third).2"
            }
        }
        // What is still on its way; a wrong packet that comes later than the right ones is seen, too.
        _ = try? await until("all packets", seconds: 10) {
            Set(ways(capture)).isSuperset(of: expected) ? true : nil
        }
        try await Task.sleep(for: .milliseconds(500))
        let missed = capture.missed()
        guard missed == 0 else { throw SoakFailure(description: "the capture missed \(missed) packets") }
        let seen = Array(Set(ways(capture)))
        if let difference = DisturbedNetwork.difference(expected: expected, actual: seen) {
            throw SoakFailure(description: "a node sends to the wrong place: \(difference)")
        }
        return expected.count
    }

    /// Of the tunnel's packets to foreign nodes: from where, to where, for whom.
    private func ways(_ capture: PacketCapture) -> [String] {
        func address(_ bytes: ArraySlice<UInt8>) -> String { bytes.map(String.init).joined(separator: ".") }
        return capture.packets().compactMap { packet -> String? in
            let bytes = packet.bytes
            // The outer IPv4 header, UDP's, the inner IPv4 header.
            guard !packet.isOutgoing, bytes.count >= 48, bytes[0] == 0x45, bytes[9] == 17,
                Int(bytes[22]) << 8 | Int(bytes[23]) == network.port,
                DisturbedNetwork.sinks.contains(Int(bytes[19])), bytes[28] >> 4 == 4,
                DisturbedNetwork.foreignSubnets.contains(Int(bytes[46]))
            else { return nil }
            return "\(address(bytes[12..<16])) to \(address(bytes[16..<20])) for \(address(bytes[44..<48]))"
        }
    }

    private func expectNoGrowth() throws {
        for node in present {
            guard let life = node.longestLife else { continue }
            let number = node.host.number
            guard life.residentBytes.last <= life.residentBytes.warm + Self.growthBytes else {
                throw SoakFailure(
                    description: "twilld on node \(number) grew from \(life.residentBytes.warm >> 10) to"
                        + " \(life.residentBytes.last >> 10) KiB in \(life.seconds) s")
            }
            guard life.descriptors.last <= life.descriptors.warm + Self.growthDescriptors else {
                throw SoakFailure(
                    description:
                        "twilld on node \(number) went from \(life.descriptors.warm) to \(life.descriptors.last)"
                        + " descriptors in \(life.seconds) s")
            }
        }
    }

    private func tellSummary() {
        say("")
        say(
            "\("disturbance".left(26)) \("times".right(6)) \("healed, median".right(16)) \("worst".right(10))"
        )
        for kind in Disturbance.Kind.allCases {
            guard let times = healings[kind]?.sorted(), let worst = times.last else { continue }
            say(
                "\(kind.rawValue.left(26)) \("\(times.count)".right(6)) \((times[times.count / 2].inSeconds + " s").right(16))"
                    + " \((worst.inSeconds + " s").right(10))")
        }
        say("")
        say(
            "\("node".left(5)) \("subnet".left(16)) \("address".left(15)) \("starts".right(7)) \("lived, s".right(12))"
                + " \("RSS KiB, warm→end".right(18)) \("fds, warm→end".right(14)) \("MB received".right(12))")
        for node in present {
            let expected = network[node.host.number]
            // A process that never lived until it counts as warm tells nothing of growth.
            let life = node.longestLife
            let memory =
                life.map { "\($0.residentBytes.warm >> 10)→\($0.residentBytes.last >> 10)" } ?? "too young"
            let descriptors = life.map { "\($0.descriptors.warm)→\($0.descriptors.last)" } ?? "too young"
            say(
                "\("\(expected.number)".left(5)) \(expected.subnet.replacing("-", with: "/").left(16)) \(expected.address.left(15))"
                    + " \("\(node.starts)".right(7)) \((life.map { "\($0.seconds)" } ?? "-").right(12))"
                    + " \(memory.right(18)) \(descriptors.right(14)) \("\(node.receivedBytes / 1_000_000)".right(12))"
            )
        }
        say("")
    }
}
