import Addresses
import Netlink
import Reconciler
import Testing

@testable import Node

/// Which addresses of both families an underlay has.
struct UnderlayFamilyTests {
    private static func link(_ index: Int32, _ name: String) -> Link {
        Link(
            index: index, name: name, flags: [.up, .lowerUp], mtu: 1500, transmitQueueLength: 1000,
            masterIndex: nil, isEthernet: true)
    }

    private static func address(
        _ index: Int32, _ text: String, _ flags: AddressFlags = .permanent
    ) -> InterfaceAddress {
        InterfaceAddress(
            interfaceIndex: index, address: IPAddress(text)!, prefixLength: 24, flags: flags)
    }

    private let state = NetworkState(
        links: [link(2, "eth0"), link(3, "eth1"), link(4, "eth2")],
        addresses: [
            address(2, "192.0.2.10"), address(2, "fe80::10"), address(2, "2001:db8::77", [.temporary]),
            address(2, "2001:db8::66", [.permanent, .tentative]),
            address(2, "2001:db8::55", [.permanent, .deprecated]), address(2, "2001:db8::10", []),
            address(2, "fd20::10"), address(3, "fd21::11"), address(4, "fe80::12"),
        ],
        routes: [
            Route(
                to: .v6(IPv6Prefix("::/0")!), gateway: IPAddress("fd21::1")!, interfaceIndex: 3, metric: 1024),
            Route(
                to: .v4(IPv4Prefix("0.0.0.0/0")!), gateway: IPAddress("192.0.2.1")!, interfaceIndex: 2),
        ])

    private func choose(
        _ options: UnderlayOptions, in state: NetworkState? = nil,
        by families: [AddressFamily] = AddressFamily.allCases
    ) throws -> Underlay {
        try Underlay(
            choosing: options, in: state ?? self.state, routeToReachable: nil, by: families)
    }

    @Test func theInterfaceOfIPv4GivesItsIPv6AddressToo() throws {
        let chosen = try choose(UnderlayOptions())
        #expect(chosen.interfaceName == "eth0" && chosen.address == IPv4Address("192.0.2.10"))
        // Permanent before what a router gave, and neither drawn by lot, deprecated, under test, nor link-local.
        #expect(chosen.ipv6Address == IPv6Address("fd20::10"))
        #expect(chosen.publicIPv6Address == IPv6Address("fd20::10"))
    }

    @Test func thePublicAddressIsTheOneThatIsUsedWhereTheInterfaceHasIt() throws {
        let address = IPv6Address("2001:db8::10")
        let chosen = try choose(UnderlayOptions(publicIPv6Address: address))
        #expect(chosen.ipv6Address == address && chosen.publicIPv6Address == address)
        let behind = IPv6Address("2001:db8:f::1")
        let translated = try choose(UnderlayOptions(publicIPv6Address: behind))
        #expect(translated.ipv6Address == IPv6Address("fd20::10") && translated.publicIPv6Address == behind)
    }

    @Test func withoutIPv4TheDefaultRouteOfIPv6Counts() throws {
        let chosen = try choose(UnderlayOptions(), by: [.ipv6])
        #expect(chosen.interfaceName == "eth1" && chosen.address == nil)
        #expect(chosen.ipv6Address == IPv6Address("fd21::11") && chosen.publicAddress == nil)
        var bare = state
        bare.addresses.removeAll { $0.address.v4 != nil }
        bare.routes.removeAll { $0.destination.v4 != nil }
        #expect(try choose(UnderlayOptions(), in: bare) == chosen)
    }

    @Test(arguments: ["fd21::11", "eth1", "^eth1$"])
    func anInterfaceIsNamedByItsIPv6Address(text: String) throws {
        let options =
            text.hasPrefix("^")
            ? UnderlayOptions(interfacePatterns: [text]) : UnderlayOptions(interfaces: [text])
        #expect(try choose(options).interfaceName == "eth1")
    }

    @Test func linkLocalAddressesNameNobody() {
        let error = #expect(throws: UnderlayError.self) {
            try choose(UnderlayOptions(interfaces: ["eth2"]), by: [.ipv6])
        }
        #expect(error?.description.contains("has no usable IPv6 address") == true)
    }

    @Test func anUnderlayKeepsItsAddressOfTheOtherFamily() throws {
        let chosen = try choose(UnderlayOptions(publicIPv6Address: IPv6Address("2001:db8::10")))
        let choice = UnderlayChoice(
            options: UnderlayOptions(), exclusions: UnderlayExclusions(), state: state, routeToReachable: nil)
        guard case .good(let current) = choice.standing(of: chosen) else {
            Issue.record("the underlay does not stand")
            return
        }
        #expect(current.ipv6Address == IPv6Address("2001:db8::10"))
        var less = choice
        less.family = .ipv6
        guard case .good(let kept) = less.standing(of: chosen) else {
            Issue.record("the underlay does not stand by IPv6")
            return
        }
        #expect(kept.address == IPv4Address("192.0.2.10"))
    }
}
