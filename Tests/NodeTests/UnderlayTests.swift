import Addresses
import Netlink
import Testing

@testable import Node

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
        try Underlay(choosing: options, in: state, routeToReachable: route)
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
            interfaces: ["eth1"], interfacePatterns: ["eth0"], reachableAddress: IPv4Address("198.51.100.1")!)
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
        let options = UnderlayOptions(reachableAddress: IPv4Address("198.51.100.1")!)
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
}
