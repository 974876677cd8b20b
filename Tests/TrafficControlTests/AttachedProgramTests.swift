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

        init() throws {
            forwarder = try KernelForwarder(
                underlay: (IPv4Address(10, 0, 0, 1), 8285), packetLimitBytes: 256, mtu: 1400)
            socket = try RouteSocket()
            try execute("ip link add under type veth && ip link set under up")
        }

        func program(byLink: Bool) -> AttachedProgram {
            AttachedProgram(forwarder.programs.inbound, to: "under", .ingress, mayUseLinks: byLink) { index in
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

    @Test func aLinkEndsWithItsHolder() async throws {
        try await World.make { world in
            var program: AttachedProgram? = world.program(byLink: true)
            try world.attach(try #require(program))
            let index = try #require(try world.socket.link(named: "under")?.index)
            #expect(program?.attachment == .link)
            #expect(world.told.withLock { $0 } == [index])
            #expect(try world.filters().isEmpty)
            // As with the process that held it.
            program = nil
            let next = world.program(byLink: true)
            try world.attach(next)
            try next.delete(using: world.socket)
            #expect(next.attachment == nil)
            #expect(world.told.withLock { $0.last } == 0)
        }
    }

    @Test(arguments: [true, false])
    func isAttachedAnewWhereTheInterfaceIsAnother(byLink: Bool) async throws {
        try await World.make { world in
            let program = world.program(byLink: byLink)
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
            try world.attach(world.program(byLink: false))
            // Its object is gone, as with a process that was killed.
            #expect(try world.filters() == ["twill_inbound"])
            let next = world.program(byLink: false)
            try world.attach(next)
            #expect(try world.filters() == ["twill_inbound"])
            // One that attaches by a link leaves no filter beside it.
            try world.attach(world.program(byLink: true))
            #expect(try world.filters().isEmpty)
            #expect(try next.deviation(in: world.state()) == "not attached")
        }
    }

    @Test func cleanupFindsWhatWasLeftOnAnyInterface() async throws {
        try await World.make { world in
            try world.attach(world.program(byLink: false))
            try execute("ip link set under down && ip link set under name former && ip link add under type veth")
            let removed = try AttachedProgram.removeFilters(
                on: world.socket.links(), except: nil, using: world.socket)
            #expect(removed == ["program twill_inbound on former"])
            #expect(
                try AttachedProgram.removeFilters(
                    on: world.socket.links(), except: nil, using: world.socket
                ).isEmpty)
        }
    }

    @Test(arguments: [true, false])
    func othersFiltersStay(byLink: Bool) async throws {
        try await World.make { world in
            try execute(
                """
                tc qdisc add dev under clsact
                tc filter add dev under ingress pref 1 matchall action continue
                tc filter add dev under ingress pref 49152 matchall action continue
                """)
            let before = try execute("tc filter show dev under ingress")
            let program = world.program(byLink: byLink)
            try world.attach(program)
            let during = try execute("tc filter show dev under ingress")
            // Ours is behind both.
            #expect(during.hasPrefix(before))
            #expect(during.contains("twill_inbound") == !byLink)
            try program.delete(using: world.socket)
            #expect(try execute("tc filter show dev under ingress") == before)
            #expect(try execute("tc qdisc show dev under").contains("clsact"))
        }
    }

    @Test func whoHasOurPlaceKeepsItAndThatIsSaid() async throws {
        try await World.make { world in
            try execute(
                """
                tc qdisc add dev under clsact
                tc filter add dev under ingress pref 65000 handle 1 matchall action continue
                """)
            let before = try execute("tc filter show dev under ingress")
            let program = world.program(byLink: false)
            let state = try world.state()
            let error = #expect(throws: (any Error).self) {
                try program.update(in: state, using: world.socket)
            }
            #expect("\(error.map { "\($0)" } ?? "")".contains("priority 65000"))
            #expect(try execute("tc filter show dev under ingress") == before)
        }
    }

    @Test func aFilterThatSomebodyTookAwayIsMissed() async throws {
        try await World.make { world in
            let program = world.program(byLink: false)
            try world.attach(program)
            try execute("tc filter del dev under ingress pref 65000")
            try world.attach(program)
        }
    }
}
