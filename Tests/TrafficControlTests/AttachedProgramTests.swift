import Addresses
import Glibc
import KernelForwarding
import KernelPrograms
import Netlink
import NetworkNamespaces
import Reconciler
import Synchronization
import Testing

@testable import TrafficControl

/// Programs in the way of real interfaces' packets, beside those of others.
@Suite(.enabled(if: namespacesAreExpected)) struct AttachedProgramTests {
    /// The programs and an interface, in a namespace of their own.
    private final class World: Sendable {
        let forwarder: KernelForwarder
        let socket: RouteSocket
        /// What the program was told of: the numbers of interfaces, 0 for none any more.
        let told = Mutex<[Int32]>([])

        convenience init() throws {
            try self.init(socket: RouteSocket())
            try execute("ip link add under type veth && ip link set under up")
        }

        /// Another daemon in the same place.
        convenience init(besides other: World) throws { try self.init(socket: other.socket) }

        private init(socket: RouteSocket) throws {
            forwarder = try KernelForwarder(
                underlay: Endpoint(address: IPv4Address(10, 0, 0, 1), port: 8285), packetLimitBytes: 256,
                mtu: 1400)
            self.socket = socket
        }

        func program(ofTunnel tunnelName: String = "over") -> AttachedProgram {
            AttachedProgram(forwarder.programs.inbound, ofTunnel: tunnelName, to: "under", .ingress) {
                index in
                self.told.withLock { $0.append(index ?? 0) }
            }
        }

        func state() throws -> NetworkState { NetworkState(links: try socket.links()) }

        func attach(_ program: AttachedProgram) throws {
            #expect(try program.deviation(in: state()) == "not attached")
            try program.update(in: state(), using: socket)
            #expect(try program.deviation(in: state()) == nil)
        }

        func filters() throws -> [String?] {
            let index = try #require(try socket.link(named: "under")?.index)
            return try socket.trafficFilters(ofInterface: index, .ingress).map(\.name)
        }

        static func make(_ body: @escaping @Sendable (World) throws -> Void) async throws {
            let namespace = try await NetworkNamespace.make()
            try await namespace.run { try body(World()) }
        }
    }

    /// Lists that come while packets flow cost some of them.
    @Test func theListsAreThereBeforeTheProgramAndStayOthers() async throws {
        try await World.make { world in
            let place = ProgramPlace(at: "under")
            #expect(try place.deviation(in: world.state()) != nil)
            try place.update(in: world.state(), using: world.socket)
            #expect(try place.deviation(in: world.state()) == nil)
            #expect(try execute("tc qdisc show dev under").contains("clsact"))
            // Somebody else had them first.
            try ProgramPlace(at: "under").update(in: world.state(), using: world.socket)
            try world.attach(world.program())
            try execute("ip link del under")
            #expect(try place.deviation(in: world.state()) == nil)
            try execute("ip link add under type veth")
            #expect(try place.deviation(in: world.state()) != nil)
        }
    }

    @Test func isAttachedAnewWhereTheInterfaceIsAnother() async throws {
        try await World.make { world in
            let program = world.program()
            try world.attach(program)
            try execute("ip link del under")
            #expect(try program.deviation(in: world.state()) == nil)
            #expect(world.told.withLock { $0.last } == 0)
            try execute("ip link add under type veth")
            try world.attach(program)
            let index = try #require(try world.socket.link(named: "under")?.index)
            #expect(world.told.withLock { $0.last } == index)
        }
    }

    @Test func aFilterOutlivesItsProcessAndTheNextStartTakesItsPlace() async throws {
        try await World.make { world in
            let former = try World(besides: world)
            let left = former.program()
            try world.attach(left)
            #expect(left.isAttached)
            #expect(try world.filters() == ["twill_inbound_over"])
            let next = world.program()
            try world.attach(next)
            #expect(try world.filters() == ["twill_inbound_over"])
            // The one before, which ends late, leaves its follower's alone.
            #expect(try left.deviation(in: world.state()) == "not attached")
            try world.attach(left)
            try world.attach(next)
            try left.delete(using: world.socket)
            #expect(!left.isAttached)
            #expect(try next.deviation(in: world.state()) == nil)
            try next.delete(using: world.socket)
            #expect(try world.filters().isEmpty)
        }
    }

    @Test func twoDaemonsShareAnInterface() async throws {
        try await World.make { world in
            let (one, other) = (world.program(), world.program(ofTunnel: "other"))
            try world.attach(one)
            try world.attach(other)
            #expect(try one.deviation(in: world.state()) == nil)
            #expect(try Set(world.filters()) == ["twill_inbound_over", "twill_inbound_other"])
            try one.delete(using: world.socket)
            #expect(try other.deviation(in: world.state()) == nil)
        }
    }

    @Test func cleanupFindsWhatWasLeftOnAnyInterface() async throws {
        try await World.make { world in
            try world.attach(world.program())
            try execute(
                """
                ip link set under down && ip link set under name former
                ip link add under type veth
                """)
            let removed = try AttachedProgram.removeFilters(
                ofTunnel: "over", on: world.socket.links(), except: nil, using: world.socket)
            #expect(removed == ["program twill_inbound_over on former"])
            #expect(
                try AttachedProgram.removeFilters(
                    ofTunnel: "over", on: world.socket.links(), except: nil, using: world.socket
                ).isEmpty)
        }
    }

    @Test func othersFiltersStay() async throws {
        try await World.make { world in
            try execute(
                """
                tc qdisc add dev under clsact
                tc filter add dev under ingress pref 1 bpf bytecode '1,6 0 0 0,'
                tc filter add dev under ingress pref 49152 bpf bytecode '1,6 0 0 0,'
                """)
            let before = try execute("tc filter show dev under ingress")
            let program = world.program()
            try world.attach(program)
            let during = try execute("tc filter show dev under ingress")
            // Ours is behind both.
            #expect(during.hasPrefix(before))
            #expect(during.contains("twill_inbound_over"))
            try program.delete(using: world.socket)
            #expect(try execute("tc filter show dev under ingress") == before)
            #expect(try execute("tc qdisc show dev under").contains("clsact"))
        }
    }

    @Test func whoHasThePlaceKeepsItAndOursIsBesideIt() async throws {
        try await World.make { world in
            try execute(
                """
                tc qdisc add dev under clsact
                tc filter add dev under ingress pref 65000 handle 1 bpf bytecode '1,6 0 0 0,'
                """)
            let before = try execute("tc filter show dev under ingress")
            let program = world.program()
            try world.attach(program)
            #expect(try world.filters().count == 2)
            try program.delete(using: world.socket)
            #expect(try execute("tc filter show dev under ingress") == before)
        }
    }

    @Test func itStandsWhereAnotherHasTheOlderDiscipline() async throws {
        try await World.make { world in
            try execute("tc qdisc add dev under ingress")
            try world.attach(world.program())
        }
    }

    @Test func aFilterThatSomebodyTookAwayIsMissed() async throws {
        try await World.make { world in
            let program = world.program()
            try world.attach(program)
            try execute("tc filter del dev under ingress pref 65000")
            try world.attach(program)
        }
    }
}
