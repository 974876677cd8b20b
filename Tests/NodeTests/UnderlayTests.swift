import Addresses
import Netlink
import Testing

@testable import Node
@testable import Reconciler

/// The choice of the underlay interface over a made-up machine; what flanneld does with the same flags decides.
@Suite struct UnderlayTests {
    /// lo, eth0 (default route), eth1 (three addresses, the global permanent one listed last), eth2 (no address).
    private var state = NetworkState(
        links: [
            Link(index: 1, name: "lo", flags: [.up, .loopback], mtu: 65_536),
            Link(index: 2, name: "eth0", flags: .up, mtu: 1500),
            Link(index: 3, name: "eth1", flags: .up, mtu: 9000),
            Link(index: 4, name: "eth2", flags: .up, mtu: 1500),
        ],
        addresses: [
            address(1, "127.0.0.1", 8), address(2, "192.0.2.10", 24),
            address(3, "169.254.7.7", 16), address(3, "10.1.0.9", 24, flags: []),
            address(3, "10.1.0.8", 24, flags: [.permanent, .deprecated]), address(3, "10.1.0.7", 24),
            InterfaceAddress(interfaceIndex: 4, address: IPAddress("fd00::1")!, prefixLength: 64),
        ],
        routes: [
            Route(
                to: .v4(IPv4Prefix("0.0.0.0/0")!), gateway: IPAddress("10.1.0.1")!, interfaceIndex: 3,
                metric: 200),
            Route(
                to: .v4(IPv4Prefix("0.0.0.0/0")!), gateway: IPAddress("192.0.2.1")!, interfaceIndex: 2,
                metric: 100),
        ])

    private static func address(
        _ index: Int32, _ text: String, _ length: Int, flags: AddressFlags = .permanent
    ) -> InterfaceAddress {
        InterfaceAddress(interfaceIndex: index, address: IPAddress(text)!, prefixLength: length, flags: flags)
    }

    private func choose(_ options: UnderlayOptions, route: Route? = nil) throws -> Underlay {
        try Underlay(choosing: options, in: state, routeToReachable: route, by: [.ipv4])
    }

    private func failure(_ options: UnderlayOptions) -> String? {
        #expect(throws: UnderlayError.self) { try choose(options) }?.description
    }

    private let machine =
        "this machine has: lo, eth0 (192.0.2.10), eth1 (10.1.0.7, 10.1.0.9, 169.254.7.7), eth2"

    @Test func theDefaultRouteOfTheLowestMetric() throws {
        #expect(
            try choose(UnderlayOptions())
                == Underlay(
                    interfaceIndex: 2, interfaceName: "eth0", address: IPv4Address("192.0.2.10")!,
                    publicAddress: IPv4Address("192.0.2.10")!, mtu: 1500))
    }

    @Test func thePublicAddressNamesItsInterface() throws {
        let underlay = try choose(UnderlayOptions(publicAddress: IPv4Address("10.1.0.9")!))
        #expect(underlay.interfaceName == "eth1" && underlay.address == IPv4Address("10.1.0.9")!)
    }

    @Test func aPublicAddressThatNobodyHoldsIsOnlyAdvertised() throws {
        let underlay = try choose(UnderlayOptions(publicAddress: IPv4Address("203.0.113.5")!))
        #expect(underlay.interfaceName == "eth0" && underlay.address == IPv4Address("192.0.2.10")!)
        #expect(underlay.publicAddress == IPv4Address("203.0.113.5")!)
    }

    @Test func aPublicAddressDoesNotOverruleAnInterface() throws {
        let underlay = try choose(
            UnderlayOptions(interfaces: ["eth0"], publicAddress: IPv4Address("10.1.0.9")!))
        #expect(underlay.interfaceName == "eth0" && underlay.address == IPv4Address("192.0.2.10")!)
        #expect(underlay.publicAddress == IPv4Address("10.1.0.9")!)
    }

    @Test func anInterfaceByName() throws {
        let underlay = try choose(UnderlayOptions(interfaces: ["eth1"]))
        // Global before link-local, permanent before dynamic, the deprecated one never.
        #expect(underlay.address == IPv4Address("10.1.0.7")!)
        #expect(underlay.mtu == 9000)
    }

    @Test func anInterfaceByItsAddress() throws {
        let underlay = try choose(UnderlayOptions(interfaces: ["10.1.0.9"]))
        #expect(underlay.interfaceName == "eth1" && underlay.address == IPv4Address("10.1.0.9")!)
    }

    @Test func aDynamicAddressBeforeALinkLocalOne() throws {
        var state = state
        state.addresses.removeAll { $0.address == IPAddress("10.1.0.7")! }
        let underlay = try Underlay(
            choosing: UnderlayOptions(interfaces: ["eth1"]), in: state, routeToReachable: nil)
        #expect(underlay.address == IPv4Address("10.1.0.9")!)
        state.addresses.removeAll { $0.address == IPAddress("10.1.0.9")! }
        #expect(
            try Underlay(choosing: UnderlayOptions(interfaces: ["eth1"]), in: state, routeToReachable: nil)
                .address
                == IPv4Address("169.254.7.7")!)
    }

    @Test func theFirstInterfaceThatFits() throws {
        #expect(
            try choose(UnderlayOptions(interfaces: ["wlan0", "eth2", "eth1", "eth0"])).interfaceName == "eth1"
        )
    }

    @Test func interfacesBeforePatternsBeforeTheReachableAddress() throws {
        let route = Route(
            to: .v4(IPv4Prefix("198.51.100.1/32")!), interfaceIndex: 3,
            preferredSource: IPAddress("10.1.0.9")!)
        var options = UnderlayOptions(
            interfaces: ["eth1"], interfacePatterns: ["eth0"], reachableAddress: IPAddress("198.51.100.1")!)
        #expect(try choose(options, route: route).address == IPv4Address("10.1.0.7")!)
        options.interfaces = ["wlan0"]
        #expect(try choose(options, route: route).interfaceName == "eth0")
        options.interfacePatterns = ["wlan.*"]
        #expect(try choose(options, route: route).address == IPv4Address("10.1.0.9")!)
    }

    @Test func aPatternMatchesAddressesFirst() throws {
        // Also in the name of eth1, but eth0's address comes first.
        #expect(try choose(UnderlayOptions(interfacePatterns: [#"1$|\.2\.10$"#])).interfaceName == "eth0")
        let second = try choose(UnderlayOptions(interfacePatterns: [#"^10\.1\.0\.9$"#]))
        #expect(second.interfaceName == "eth1" && second.address == IPv4Address("10.1.0.9")!)
    }

    @Test func aPatternMatchesNamesAfterwards() throws {
        #expect(try choose(UnderlayOptions(interfacePatterns: ["^eth[1-9]"])).interfaceName == "eth1")
    }

    @Test func theReachableAddressGivesInterfaceAndSource() throws {
        let options = UnderlayOptions(reachableAddress: IPAddress("198.51.100.1")!)
        let route = Route(
            to: .v4(IPv4Prefix("198.51.100.1/32")!), interfaceIndex: 3,
            preferredSource: IPAddress("10.1.0.9")!)
        #expect(try choose(options, route: route).address == IPv4Address("10.1.0.9")!)
        #expect(
            failure(options)
                == "no underlay interface: --iface-can-reach=198.51.100.1: there is no route to it; \(machine)"
        )
    }

    @Test func whatDoesNotFitIsNamedWithThoseThatExist() {
        #expect(
            failure(UnderlayOptions(interfaces: ["wlan0", "eth2", "10.9.9.9"])) == """
                no underlay interface: --iface=wlan0: there is no such interface; \
                --iface=eth2: interface eth2 has no usable IPv4 address; \
                --iface=10.9.9.9: no interface holds that address; \(machine)
                """)
        #expect(
            failure(UnderlayOptions(interfacePatterns: ["wlan"]))
                == "no underlay interface: --iface-regex=wlan: matches no address and no interface; \(machine)"
        )
        #expect(
            failure(UnderlayOptions(interfacePatterns: ["("]))?.contains("not a regular expression") == true)
    }

    @Test func noDefaultRoute() throws {
        var bare = state
        bare.routes = []
        let error = #expect(throws: UnderlayError.self) {
            try Underlay(choosing: UnderlayOptions(), in: bare, routeToReachable: nil)
        }
        #expect(
            error?.description
                == "no underlay interface: there is no default route; name one with --iface; \(machine)")
    }

    @Test func theDefaultRoutesMTUWhereItIsSmaller() throws {
        var state = state
        state.routes[0].mtu = 1400
        state.routes[1].mtu = 9000
        func mtu(_ name: String) throws -> Int {
            try Underlay(choosing: UnderlayOptions(interfaces: [name]), in: state, routeToReachable: nil).mtu
        }
        #expect(try mtu("eth1") == 1400)
        #expect(try mtu("eth0") == 1500)
    }

    // MARK: What may not be chosen

    private let exclusions = UnderlayExclusions(
        interfaceName: "flannel0", networks: [.v4(IPv4Prefix("100.96.0.0/16")!)])

    /// The machine with the tunnel device, a bridge for pods and a leftover one.
    private var withOverlay: NetworkState {
        var state = state
        state.links += [
            Link(index: 5, name: "flannel0", flags: .up, mtu: 1472),
            Link(index: 6, name: "docker0", flags: .up, mtu: 1472),
            Link(index: 7, name: "cni0", flags: .up, mtu: 1472),
        ]
        state.addresses += [
            UnderlayTests.address(5, "100.96.1.0", 32), UnderlayTests.address(6, "100.96.1.1", 24),
            UnderlayTests.address(7, "100.96.9.1", 24),
        ]
        return state
    }

    private func choose(
        _ options: UnderlayOptions, in state: NetworkState, route: Route? = nil
    ) throws -> Underlay {
        try Underlay(
            choosing: options, excluding: exclusions, in: state, routeToReachable: route, by: [.ipv4])
    }

    @Test(arguments: [
        (UnderlayOptions(interfaces: ["flannel0"]), "it is the tunnel's own device"),
        (
            UnderlayOptions(interfaces: ["docker0"]),
            "100.96.1.1, which lies inside the tunnel's network 100.96.0.0/16"
        ),
        (UnderlayOptions(interfaces: ["100.96.9.1"]), "lies inside the tunnel's network 100.96.0.0/16"),
        (UnderlayOptions(interfacePatterns: ["^100[.]96"]), "matches no address"),
        (UnderlayOptions(interfacePatterns: ["flannel"]), "matches no address"),
        (
            UnderlayOptions(reachableAddress: IPAddress("100.96.0.1")!),
            "the route to it leads into the tunnel"
        ),
    ])
    func neitherTheTunnelNorTheOverlayIsTheUnderlay(_ options: UnderlayOptions, _ reason: String) {
        let route = Route(
            to: .v4(IPv4Prefix("100.96.0.1/32")!), interfaceIndex: 5,
            preferredSource: IPAddress("100.96.1.0")!)
        let error = #expect(throws: UnderlayError.self) { try choose(options, in: withOverlay, route: route) }
        #expect(error?.description.contains(reason) == true, "\(error?.description ?? "")")
    }

    @Test func aDefaultRouteIntoTheOverlayIsPassedOver() throws {
        var state = withOverlay
        state.routes.append(Route(to: .v4(IPv4Prefix("0.0.0.0/0")!), interfaceIndex: 5, metric: 0))
        #expect(try choose(UnderlayOptions(), in: state).interfaceName == "eth0")
    }

    @Test(arguments: [
        (UnderlayOptions(interfaces: ["eth7"]), true), (UnderlayOptions(interfaces: ["eth2"]), true),
        (UnderlayOptions(interfaces: ["10.9.9.9"]), true),
        (UnderlayOptions(interfacePatterns: ["wlan"]), true),
        (UnderlayOptions(reachableAddress: IPAddress("198.51.100.1")!), true),
        (UnderlayOptions(interfacePatterns: ["("]), false),
        (UnderlayOptions(interfaces: ["flannel0"]), false),
        (UnderlayOptions(interfaces: ["224.0.0.5"]), false),
        (UnderlayOptions(interfaces: ["0.0.0.0"]), false),
        (UnderlayOptions(interfaces: ["flannel0", "eth7"]), true),
    ])
    func whatMayComeLaterIsToldFromWhatNeverWill(_ options: UnderlayOptions, _ isTransient: Bool) {
        let error = #expect(throws: UnderlayError.self) { try choose(options, in: state) }
        #expect(error?.isTransient == isTransient)
    }

    // MARK: Several next hops, and uplinks without an address

    @Test func aDefaultRouteWithTwoNextHops() throws {
        var state = state
        state.routes = [Route(to: .v4(IPv4Prefix("0.0.0.0/0")!))]
        state.routes[0].nextHops = [Route.NextHop(interfaceIndex: 3), Route.NextHop(interfaceIndex: 2)]
        let underlay = try choose(UnderlayOptions(), in: state)
        // Datagrams may take either way: the narrower one counts.
        #expect(underlay.interfaceName == "eth1" && underlay.mtu == 1500 && underlay.holderName == nil)
    }

    @Test func theAddressIsOnLoopback() throws {
        var state = state
        state.addresses.append(UnderlayTests.address(1, "192.0.2.99", 32))
        state.addresses.removeAll { $0.interfaceIndex == 2 }
        state.routes = [
            Route(
                to: .v4(IPv4Prefix("0.0.0.0/0")!), interfaceIndex: 2,
                preferredSource: IPAddress("192.0.2.99")!)
        ]
        let wanted = Underlay(
            interfaceIndex: 2, interfaceName: "eth0", address: IPv4Address("192.0.2.99")!,
            publicAddress: IPv4Address("192.0.2.99")!, mtu: 1500, holderName: "lo")
        #expect(try choose(UnderlayOptions(), in: state) == wanted)
        #expect(try choose(UnderlayOptions(interfaces: ["lo"]), in: state) == wanted)
        #expect(try choose(UnderlayOptions(publicAddress: wanted.address), in: state) == wanted)
        // Without `src` the kernel looks through the interfaces in their order.
        state.routes[0].preferredSource = nil
        #expect(try choose(UnderlayOptions(), in: state) == wanted)
    }
}

/// The underlay in use over a made-up machine and a made-up clock.
@Suite struct UnderlayWatchTests {
    private static let start = ContinuousClock.now
    private static let first = Underlay(
        interfaceIndex: 2, interfaceName: "eth0", address: IPv4Address("192.0.2.10")!,
        publicAddress: IPv4Address("192.0.2.10")!, mtu: 1500)

    /// eth0 as chosen; eth1 beside it.
    private static let machine = NetworkState(
        links: [
            Link(index: 2, name: "eth0", flags: [.up, .lowerUp], mtu: 1500),
            Link(index: 3, name: "eth1", flags: [.up, .lowerUp], mtu: 1400),
        ],
        addresses: [address(2, "192.0.2.10"), address(3, "10.1.0.7")],
        routes: [Route(to: .v4(IPv4Prefix("0.0.0.0/0")!), interfaceIndex: 2, metric: 100)])

    private static func address(_ index: Int32, _ text: String, flags: AddressFlags = .permanent)
        -> InterfaceAddress
    {
        InterfaceAddress(interfaceIndex: index, address: IPAddress(text)!, prefixLength: 24, flags: flags)
    }

    private var options = UnderlayOptions()
    private var exclusions = UnderlayExclusions(interfaceName: "flannel0")
    private var watch = UnderlayWatch(UnderlayWatchTests.first)
    private var state = UnderlayWatchTests.machine

    private mutating func look(after seconds: Double) {
        let choice = UnderlayChoice(
            options: options, exclusions: exclusions, state: state, routeToReachable: nil)
        let (options, exclusions, state) = (options, exclusions, state)
        watch.look(choice, now: UnderlayWatchTests.start + .seconds(seconds)) {
            Result { () throws(UnderlayError) in
                try Underlay(choosing: options, excluding: exclusions, in: state, routeToReachable: nil)
            }
        }
    }

    private func expectUnchanged(_ location: SourceLocation = #_sourceLocation) {
        #expect(watch.underlay == UnderlayWatchTests.first, sourceLocation: location)
        #expect(watch.problem == nil, sourceLocation: location)
        #expect(watch.nextLook == nil, sourceLocation: location)
    }

    @Test mutating func whatFitsBetterNowIsNoReasonToLeave() {
        state.routes.append(Route(to: .v4(IPv4Prefix("0.0.0.0/0")!), interfaceIndex: 3, metric: 10))
        for second in 0..<20 { look(after: Double(second)) }
        expectUnchanged()
        state.routes = []
        for second in 20..<40 { look(after: Double(second)) }
        expectUnchanged()
    }

    @Test mutating func anAddressBesideItChangesNothing() {
        state.addresses.insert(UnderlayWatchTests.address(2, "192.0.2.200"), at: 0)
        look(after: 0)
        state.addresses.removeFirst()
        look(after: 60)
        expectUnchanged()
    }

    @Test mutating func aDeprecatedAddressStaysInUse() {
        state.addresses[0].flags = .deprecated
        for second in 0..<20 { look(after: Double(second)) }
        expectUnchanged()
    }

    @Test mutating func whatComesBackInTimeChangesNothing() {
        state.addresses.removeFirst()
        look(after: 0)
        #expect(watch.problem == nil && watch.nextLook == UnderlayWatchTests.start + .seconds(1))
        look(after: 4.9)
        #expect(watch.problem?.effect == .cutOff && watch.nextLook == UnderlayWatchTests.start + .seconds(5))
        #expect(watch.problem?.cause == "interface eth0 has lost the underlay's address 192.0.2.10")
        state = UnderlayWatchTests.machine
        look(after: 5.1)
        expectUnchanged()
        // And the time begins anew.
        state.addresses.removeFirst()
        look(after: 9)
        look(after: 13.9)
        #expect(watch.underlay == UnderlayWatchTests.first)
    }

    @Test mutating func anotherTakesOverAndThatIsSaid() {
        state.links.removeFirst()
        state.addresses.removeFirst()
        look(after: 0)
        look(after: 1)
        #expect(
            watch.problem?.cause == "interface eth0, which held the underlay's address 192.0.2.10, is gone")
        state.routes = [Route(to: .v4(IPv4Prefix("0.0.0.0/0")!), interfaceIndex: 3)]
        look(after: 5)
        #expect(watch.underlay.interfaceName == "eth1" && watch.underlay.mtu == 1400)
        #expect(watch.problem?.effect == .degraded)
        #expect(watch.problem?.cause.contains("eth1 (10.1.0.7), since eth0 (192.0.2.10) went away") == true)
        // What was left is no reason to leave again.
        state = UnderlayWatchTests.machine
        look(after: 60)
        #expect(watch.underlay.interfaceName == "eth1")
        // But where that goes too, the first is good again.
        state.addresses.removeLast()
        look(after: 61)
        look(after: 66)
        expectUnchanged()
    }

    @Test mutating func withNothingElseItStaysAndIsMissed() {
        options.interfaces = ["eth0"]
        state.addresses.removeFirst()
        for second in 0..<20 { look(after: Double(second)) }
        #expect(watch.underlay == UnderlayWatchTests.first && watch.problem?.effect == .cutOff)
        #expect(
            watch.problem?.remedy.contains("--iface=eth0: interface eth0 has no usable IPv4 address") == true)
        state = UnderlayWatchTests.machine
        look(after: 21)
        expectUnchanged()
    }

    @Test mutating func anInterfaceThatIsDown() {
        state.links[0].flags = []
        look(after: 0)
        look(after: 2)
        #expect(
            watch.problem?.cause.contains("eth0, which holds the underlay's address 192.0.2.10, is down")
                == true)
        #expect(watch.problem?.effect == .cutOff)
    }

    @Test mutating func anInterfaceWithoutACarrierIsKeptAndSaid() {
        state.links[0].flags = .up
        look(after: 0)
        #expect(watch.problem == nil && watch.nextLook == UnderlayWatchTests.start + .seconds(1))
        for second in 1..<20 { look(after: Double(second)) }
        #expect(watch.underlay == UnderlayWatchTests.first && watch.problem?.effect == .cutOff)
        state = UnderlayWatchTests.machine
        look(after: 20)
        expectUnchanged()
    }

    @Test mutating func anotherNumberOrNameIsTheSameUnderlay() {
        state.links[0].index = 77
        state.addresses[0].interfaceIndex = 77
        look(after: 0)
        #expect(
            watch.underlay.interfaceIndex == 77 && watch.underlay.interfaceName == "eth0"
                && watch.problem == nil)
        state.links[0].name = "net0"
        state.links[0].mtu = 9000
        look(after: 0)
        #expect(watch.underlay.interfaceName == "net0" && watch.underlay.mtu == 9000 && watch.problem == nil)
        #expect(watch.underlay.address == UnderlayWatchTests.first.address)
    }

    @Test mutating func anAddressThatABridgeTookOverIsTheSameUnderlay() {
        state.links.append(Link(index: 9, name: "br0", flags: [.up, .lowerUp], mtu: 1500))
        state.addresses[0].interfaceIndex = 9
        look(after: 0)
        #expect(watch.underlay.interfaceName == "br0" && watch.problem == nil)
        #expect(watch.underlay.address == UnderlayWatchTests.first.address)
    }

    @Test mutating func anotherNameThanTheFlagsSayIsSaidButLosesNoPackets() {
        options.interfaces = ["eth0"]
        state.links[0].name = "net0"
        for second in 0..<20 { look(after: Double(second)) }
        #expect(watch.underlay == UnderlayWatchTests.first && watch.problem?.effect == .degraded)
        #expect(watch.problem?.cause.contains("on interface net0 now, and was on eth0") == true)
    }

    @Test mutating func itIsExcludedOnceTheOverlayIsKnown() {
        exclusions.networks = [.v4(IPv4Prefix("192.0.2.0/24")!)]
        look(after: 0)
        #expect(watch.problem?.effect == .cutOff)
        #expect(
            watch.problem?.cause.contains("192.0.2.10 of eth0 lies inside the tunnel's network 192.0.2.0/24")
                == true)
        state.routes = [Route(to: .v4(IPv4Prefix("0.0.0.0/0")!), interfaceIndex: 3)]
        look(after: 0)
        #expect(watch.underlay.interfaceName == "eth1" && watch.problem == nil)
    }

    @Test mutating func aPublicAddressInsideTheOverlayIsSaid() {
        exclusions.networks = [.v4(IPv4Prefix("100.96.0.0/16")!)]
        options.publicAddress = IPv4Address("100.96.1.0")!
        look(after: 0)
        #expect(
            watch.problem?.effect == .cutOff
                && watch.problem?.cause.contains("public address 100.96.1.0") == true)
    }
}
