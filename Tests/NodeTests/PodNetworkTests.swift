import Addresses
import FoundationEssentials
import Health
import Logging
import Netlink
import NetworkNamespaces
import Reconciler
import Testing

@testable import Node

/// How pods of this node get their network: the CNI list and the bridge.
@Suite struct ContainerNetworkListTests {
    private let file = SubnetFile(
        ipv4: .init(network: IPv4Prefix("10.244.0.0/16")!, subnet: IPv4Prefix("10.244.3.0/24")!), mtu: 1472,
        masquerades: false)

    /// A directory of its own for each test.
    private final class Place {
        let directory = "/tmp/node-pods-\(UInt64.random(in: 0...UInt64.max))"
        let socket: RouteSocket

        init() throws {
            socket = try RouteSocket()
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        }
        deinit { try? FileManager.default.removeItem(atPath: directory) }

        func read(_ name: String) -> String? {
            try? String(contentsOfFile: "\(directory)/\(name)", encoding: .utf8)
        }
        func write(_ name: String, _ text: String) throws {
            try Data(text.utf8).write(to: URL(filePath: "\(directory)/\(name)"))
        }
        func subnetFile(_ file: SubnetFile) -> KeptSubnetFile {
            KeptSubnetFile(file, at: "\(directory)/subnet.env")
        }
        func list(after subnetFile: KeptSubnetFile) -> KeptContainerNetworkList {
            KeptContainerNetworkList(
                ContainerNetworkOptions(source: "\(directory)/source.json", directory: "\(directory)/net.d"),
                after: subnetFile)
        }
        /// What a pass does to an item; gives its problem.
        func pass(_ item: some KeptItem) throws -> Problem? {
            do {
                if try item.deviation(in: NetworkState()) != nil {
                    try item.update(in: NetworkState(), using: socket)
                }
                return nil
            } catch let problem as ItemProblem {
                return problem.problem
            }
        }
    }

    private static let written = "net.d/10-flannel.conflist"

    @Test func theListOfOursIsOneAndKeepsAddressesBelowRun() throws {
        let list = try ContainerNetworkList(parsing: ContainerNetworkList.standard.text)
        #expect(list == .standard && list.bridgeName == "cni0")
        #expect(list.text.contains("\"dataDir\": \"/run/"))
        #expect(list.text.contains("portMappings"))
    }

    @Test(arguments: [
        ("", "is no JSON"), ("[]", "is no JSON object"),
        (#"{"plugins": [{"type": "flannel"}]}"#, "has no \"name\""),
        (#"{"name": "cbr0", "type": "flannel"}"#, "is no list"),
        (#"{"name": "cbr0", "plugins": []}"#, "is no list"),
        (#"{"name": "cbr0", "plugins": [{"type": "a"}, {}]}"#, "number 2, without a \"type\""),
        (#"{"name": "cbr0", "plugins": [{"type": "../a"}]}"#, "number 1"),
    ])
    func whatIsNoListIsRefused(text: String, words: String) {
        let error = #expect(throws: ContainerNetworkListError.self) {
            try ContainerNetworkList(parsing: text)
        }
        #expect(error?.description.contains(words) == true, "\(error?.description ?? "")")
    }

    @Test func theBridgeIsTheOneOfTheDelegate() throws {
        let list = try ContainerNetworkList(
            parsing: #"{"name": "n", "plugins": [{"type": "flannel", "delegate": {"bridge": "pods0"}}]}"#)
        #expect(list.bridgeName == "pods0")
    }

    /// The kubelet calls a node ready by the list alone.
    @Test func theListComesOnlyAfterSubnetEnv() throws {
        let place = try Place()
        let subnetFile = place.subnetFile(file)
        let list = place.list(after: subnetFile)
        #expect(try place.pass(list)?.cause.contains("waits for subnet.env") == true)
        #expect(place.read(Self.written) == nil)
        #expect(try place.pass(subnetFile) == nil)
        #expect(try place.pass(list) == nil)
        #expect(place.read(Self.written) == ContainerNetworkList.standard.text)
    }

    @Test func aSubnetFileThatCannotBeWrittenHoldsTheListBack() throws {
        let place = try Place()
        let subnetFile = KeptSubnetFile(file, at: "/proc/nowhere/subnet.env")
        #expect(try place.pass(subnetFile) != nil)
        #expect(try place.pass(place.list(after: subnetFile)) != nil)
        #expect(place.read(Self.written) == nil)
    }

    @Test func theSourceIsFollowedAndWhatIsNoListChangesNothing() throws {
        let place = try Place()
        let subnetFile = place.subnetFile(file)
        #expect(try place.pass(subnetFile) == nil)
        let list = place.list(after: subnetFile)
        let first = #"{"name": "a", "plugins": [{"type": "flannel"}]}"#
        try place.write("source.json", first)
        #expect(try place.pass(list) == nil && place.read(Self.written) == first)
        try place.write("source.json", first.dropLast() + ",}")
        let problem = try #require(try place.pass(list))
        #expect(problem.cause.contains("source.json is no JSON") && problem.effect == .degraded)
        #expect(place.read(Self.written) == first)
        let second = #"{"name": "b", "plugins": [{"type": "flannel", "delegate": {"bridge": "b0"}}]}"#
        try place.write("source.json", second)
        #expect(try place.pass(list) == nil && place.read(Self.written) == second && list.bridgeName == "b0")
    }

    /// Row 24: the runtime would read it first.
    @Test(arguments: [
        (#"{"name": "cbr0", "type": "flannel", "delegate": {}}"#, true), (#"{"type": "calico"}"#, false),
        ("not JSON", false),
    ])
    func flannelsFileOfTheFormerNameGoes(text: String, goes: Bool) throws {
        let place = try Place()
        let subnetFile = place.subnetFile(file)
        #expect(try place.pass(subnetFile) == nil)
        let list = place.list(after: subnetFile)
        #expect(try place.pass(list) == nil)
        try place.write("net.d/10-flannel.conf", text)
        #expect(try place.pass(list) == nil)
        #expect((place.read("net.d/10-flannel.conf") == nil) == goes)
        #expect(place.read(Self.written) == ContainerNetworkList.standard.text)
    }

    @Test func aDirectoryThatTakesNothingIsAProblem() throws {
        let place = try Place()
        let subnetFile = place.subnetFile(file)
        #expect(try place.pass(subnetFile) == nil)
        let list = KeptContainerNetworkList(
            ContainerNetworkOptions(source: "\(place.directory)/none", directory: "/proc/nowhere"),
            after: subnetFile)
        let problem = try #require(try place.pass(list))
        #expect(
            problem.sentence.contains("/proc/nowhere") && problem.sentence.contains("--cni-conf-dir=none"))
    }
}

@Suite struct PodBridgeTests {
    private static let pods = PodPrefix(
        network: IPPrefix("10.244.0.0/16")!, subnet: IPPrefix("10.244.2.0/24")!)
    private static let ipv6Pods = PodPrefix(
        network: IPPrefix("fd00:12::/48")!, subnet: IPPrefix("fd00:12:0:2::/64")!)

    /// `cni0` is number 4 with two pods, beside another bridge with one.
    private static func state(_ addresses: String...) -> NetworkState {
        NetworkState(
            links: [
                Link(index: 1, name: "lo"), Link(index: 4, name: "cni0"), Link(index: 5, name: "br1"),
                Link(index: 6, name: "veth1", masterIndex: 4), Link(index: 7, name: "veth2", masterIndex: 4),
                Link(index: 8, name: "veth3", masterIndex: 5),
            ],
            addresses: addresses.map {
                InterfaceAddress(
                    interfaceIndex: 4, address: IPAddress($0)!, prefixLength: $0.contains(":") ? 64 : 24)
            })
    }

    private func values(_ text: String) -> [PodPrefix] { SubnetFileValues(text: text).pods }

    private static func problem(in state: NetworkState, _ pods: PodPrefix = pods) throws -> Problem? {
        do {
            #expect(try PodBridge(pods: pods) { "cni0" }.deviation(in: state) == nil)
            return nil
        } catch let problem as ItemProblem {
            return problem.problem
        }
    }

    @Test func aBridgeOfAFormerSubnetIsNamedWithItsPodsAndWhatToDo() throws {
        let problem = try #require(try Self.problem(in: Self.state("10.244.0.1")))
        #expect(problem.effect == .cutOff)
        for words in [
            "cni0", "10.244.0.1/24", "10.244.2.0/24", "2 pods", "twilld cleanup --cni", "kubectl delete pod",
        ] {
            #expect(problem.sentence.contains(words), "\(problem.sentence)")
        }
    }

    @Test func aBridgeWithoutPodsCutsNobodyOff() throws {
        var state = Self.state("10.244.0.1")
        state.links.removeAll { $0.masterIndex != nil }
        #expect(try Self.problem(in: state)?.effect == .degraded)
    }

    /// The plugin takes no other address beside its own; pods that run on the right one go on.
    @Test func anAddressTooManyIsNamedToo() throws {
        let problem = try #require(try Self.problem(in: Self.state("10.244.2.1", "192.168.7.1")))
        #expect(problem.effect == .degraded && problem.cause.contains("10.244.2.1/24, 192.168.7.1/24"))
    }

    @Test func aBridgeThatIsInOrderIsNoProblem() throws {
        #expect(try Self.problem(in: Self.state("10.244.2.1")) == nil)
        // A bridge that was only just made has none.
        #expect(try Self.problem(in: Self.state()) == nil)
        #expect(try Self.problem(in: NetworkState()) == nil)
    }

    @Test func aBridgeOfAFormerIPv6SubnetIsNamed() throws {
        let problem = try #require(
            try Self.problem(in: Self.state("fe80::1", "10.244.2.1", "fd00:12:0:9::1"), Self.ipv6Pods))
        #expect(problem.effect == .cutOff)
        for words in [
            "cni0 has the address fd00:12:0:9::1/64,", "fd00:12:0:2::/64", "2 pods", "twilld cleanup --cni",
        ] {
            #expect(problem.sentence.contains(words), "\(problem.sentence)")
        }
        // IPv4 is in order, and says nothing.
        #expect(try Self.problem(in: Self.state("10.244.2.1", "fd00:12:0:9::1")) == nil)
    }

    /// The plugin adds the new address beside the old one: pods of before are cut off, and nobody else.
    @Test func aFormerIPv6SubnetBesideThePresentOneIsNamed() throws {
        let problem = try #require(
            try Self.problem(in: Self.state("fd00:12:0:2::1", "fd00:12:0:9::1"), Self.ipv6Pods))
        #expect(problem.effect == .degraded)
        #expect(
            problem.sentence.contains("ip -6 address del fd00:12:0:9::1/64 dev cni0")
                && !problem.sentence.contains("fd00:12:0:2::1"), "\(problem.sentence)")
    }

    /// An interface may have IPv6 addresses of whomever.
    @Test func anIPv6AddressOfSomebodyElsesIsNoProblem() throws {
        for addresses in [["fd00:12:0:2::1"], ["fd00:12:0:2::1", "2001:db8::7"], ["fe80::1"], []] {
            var state = Self.state()
            for address in addresses { state.addresses += Self.state(address).addresses }
            #expect(try Self.problem(in: state, Self.ipv6Pods) == nil, "\(addresses)")
        }
    }

    @Test(.enabled(if: namespacesAreExpected, "network namespaces need root and iproute2"))
    func aBridgeIsOnlyTakenAwayWhereItIsStale() async throws {
        let namespace = try await NetworkNamespace.make()
        try await namespace.run {
            try execute(
                "ip link add cni0 type bridge && ip address add 10.244.2.1/24 dev cni0 && "
                    + "ip link add veth1 type veth peer name pod1 && ip link set veth1 master cni0")
            #expect(
                try PodBridge.remove("cni0", unlessOf: [Self.pods]) == .inUse(addresses: "10.244.2.1/24"))
            #expect(try execute("ip -br link show cni0").contains("cni0"))
            #expect(
                try PodBridge.remove("cni0", unlessOf: values("FLANNEL_SUBNET=10.244.9.1/24"))
                    == .removed(addresses: "10.244.2.1/24", podCount: 1))
            #expect(try PodBridge.remove("cni0", unlessOf: []) == .missing)
            try execute("ip link add cni0 type bridge && ip addr add fd00:12:0:1::1/64 dev cni0 nodad")
            #expect(
                try PodBridge.remove("cni0", unlessOf: values("FLANNEL_IPV6_SUBNET=fd00:12:0:1::1/64"))
                    == .inUse(addresses: "fd00:12:0:1::1/64"))
            #expect(
                try PodBridge.remove("cni0", unlessOf: values("FLANNEL_IPV6_SUBNET=fd00:12:0:2::1/64"))
                    == .removed(addresses: "fd00:12:0:1::1/64", podCount: 0))
            // Of both families each must be in order.
            let both = "FLANNEL_SUBNET=10.244.2.1/24\nFLANNEL_IPV6_NETWORK=fd00:12::/48\n"
            for (subnet, isInUse) in [("fd00:12:0:1::1/64", true), ("fd00:12:0:2::1/64", false)] {
                try execute(
                    "ip link add cni0 type bridge && ip addr add 10.244.2.1/24 dev cni0 && ip addr add fd00:12:0:1::1/64 dev cni0 nodad"
                )
                let addresses = "10.244.2.1/24, fd00:12:0:1::1/64"
                #expect(
                    try PodBridge.remove("cni0", unlessOf: values(both + "FLANNEL_IPV6_SUBNET=\(subnet)"))
                        == (isInUse
                            ? .inUse(addresses: addresses) : .removed(addresses: addresses, podCount: 0)))
                if isInUse { try execute("ip link del cni0") }
            }
        }
    }

    @Test(.enabled(if: namespacesAreExpected, "network namespaces need root and iproute2"))
    func addressesThatSomebodyElseSaysAreFollowed() async throws {
        let namespace = try await NetworkNamespace.make()
        let network = try await namespace.run {
            try execute(
                "ip link add u0 type veth peer name u1 && ip link set u1 up && ip link set u0 up && "
                    + "ip addr add 198.51.100.2/24 dev u0 && ip route add default via 198.51.100.1 && "
                    + "ip link add v0 type veth peer name v1 && ip link set v1 up && ip link set v0 up && "
                    + "ip addr add 203.0.113.2/24 dev v0")
            return try NodeNetwork(
                options: UnderlayOptions(), health: NodeHealth(),
                logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        }
        #expect(try await network.chooseUnderlay().interfaceName == "u0")
        var events = network.events.makeAsyncIterator()
        func next() async -> Underlay? {
            guard case .underlayChanged(let underlay)? = await events.next() else { return nil }
            return underlay
        }
        await network.follow(publicAddress: nil, announcedAddress: IPv4Address("192.0.2.7"))
        let announced = await next()
        #expect(announced?.address == IPv4Address("198.51.100.2"))
        #expect(announced?.publicAddress == IPv4Address("192.0.2.7"))
        // Another address to choose by: the interface that holds it.
        await network.follow(publicAddress: IPv4Address("203.0.113.2"), announcedAddress: nil)
        let chosen = await next()
        #expect(chosen?.interfaceName == "v0" && chosen?.publicAddress == IPv4Address("203.0.113.2"))
        await network.follow(publicAddress: nil, announcedAddress: nil)
        #expect(await next()?.interfaceName == "u0")
    }
}
