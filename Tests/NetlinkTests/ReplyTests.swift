import Addresses
import Glibc
import Seeded
import Testing

@testable import Netlink

/// Replies of Linux 6.18, taken from a socket in a network namespace with one veth `node-t0`; long link replies are
/// cut to the attributes that stand here.
@Suite struct ReplyTests {
    private func complete(_ datagrams: String...) throws -> [Message] {
        var reply = Reply(to: "test", sequence: 7)
        for datagram in datagrams.dropLast() { #expect(try reply.take(bytes(datagram)) == .incomplete) }
        #expect(try reply.take(bytes(datagrams.last!)) == .complete)
        return reply.messages
    }

    private static let acknowledgement =
        "24000000 0200 0001 07000000 f9260000 00000000 2c000000 1200 0500 07000000 00000000"
    private static let done = "14000000 0300 0200 07000000 f9260000 00000000"

    @Test func aLink() throws {
        let messages = try complete(
            """
            44000000 1000 0000 07000000 f9260000  0000 0100 03000000 43100100 00000000
            0c00 0300 6e6f64652d743000  0800 0d00 4d000000  0800 0400 78050000  0800 0a00 05000000
            """, ReplyTests.acknowledgement)
        #expect(
            messages.compactMap { Link($0) } == [
                Link(
                    index: 3, name: "node-t0", flags: LinkFlags(rawValue: 0x11043), mtu: 1400,
                    transmitQueueLength: 77, masterIndex: 5)
            ])
        #expect(Link(messages[0])?.isUp == true)
    }

    @Test func addressesOfBothFamilies() throws {
        let messages = try complete(
            """
            4c000000 1400 0200 07000000 f9260000  02 08 80 fe 01000000
            0800 0100 7f000001  0800 0200 7f000001  0700 0300 6c6f00 00  0800 0800 80000000
            1400 0600 ffffffff ffffffff d2380400 d2380400
            50000000 1400 0200 07000000 f9260000  02 18 80 00 03000000
            0800 0100 0a010203  0800 0200 0a010203  0c00 0300 6e6f64652d743000  0800 0800 80000000
            1400 0600 ffffffff ffffffff d2380400 d2380400
            48000000 1400 0200 07000000 f9260000  0a 40 82 00 03000000
            1400 0100 fd000000000000000000000000000005
            1400 0600 ffffffff ffffffff d2380400 d2380400  0800 0800 82000000
            """, ReplyTests.done)
        #expect(
            messages.compactMap { InterfaceAddress($0) } == [
                InterfaceAddress(
                    interfaceIndex: 1, address: IPAddress("127.0.0.1")!, prefixLength: 8, scope: .host),
                InterfaceAddress(interfaceIndex: 3, address: IPAddress("10.1.2.3")!, prefixLength: 24),
                InterfaceAddress(
                    interfaceIndex: 3, address: IPAddress("fd00::5")!, prefixLength: 64,
                    flags: [.permanent, AddressFlags(rawValue: 2)]),
            ])
    }

    @Test func routesWithMetricsAndWithoutAnInterface() throws {
        let messages = try complete(
            """
            48000000 1800 2200 07000000 f9260000  02 00 00 00 fe 03 00 01 00000000
            0800 0f00 fe000000  0800 0600 05000000  0c00 0800 0800 0200 14050000
            0800 0500 0a010201  0800 0400 03000000
            3c000000 1800 2200 07000000 f9260000  02 18 00 00 fe 02 fd 01 00000000
            0800 0f00 fe000000  0800 0100 0a010200  0800 0700 0a010203  0800 0400 03000000
            2c000000 1800 2200 07000000 f9260000  02 10 00 00 fe 03 00 06 00000000
            0800 0f00 fe000000  0800 0100 0a090000
            """, ReplyTests.done)
        #expect(
            messages.compactMap { Route($0) } == [
                Route(
                    to: .v4(IPv4Prefix("0.0.0.0/0")!), gateway: IPAddress("10.1.2.1")!, interfaceIndex: 3,
                    metric: 5, mtu: 1300),
                Route(
                    to: .v4(IPv4Prefix("10.1.2.0/24")!), interfaceIndex: 3,
                    preferredSource: IPAddress("10.1.2.3")!, scope: .link, origin: 2),
                Route(to: .v4(IPv4Prefix("10.9.0.0/16")!), kind: .blackhole),
            ])
    }

    @Test func theAnswerToALookUpIsACacheEntryAndNoRouteOfATable() throws {
        let messages = try complete(
            """
            7c000000 1800 0000 07000000 f9260000  02 20 00 00 fe 00 00 01 00020000
            0800 0f00 fe000000  0800 0100 08080808  0800 0400 03000000  0800 0700 0a010203  0800 0500 0a010201
            0c00 0800 0800 0200 14050000  0800 1900 00000000
            2400 0c00 02000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
            """, ReplyTests.acknowledgement)
        #expect(messages.compactMap { Route($0) }.isEmpty)
        let answer = try #require(Route(answer: messages[0]))
        #expect(answer.interfaceIndex == 3)
        #expect(answer.preferredSource == IPAddress("10.1.2.3")!)
        #expect(answer.mtu == 1300)
    }

    @Test func aRefusalCarriesTheKernelsOwnWords() {
        var reply = Reply(to: "set route", sequence: 7)
        let error = #expect(throws: NetlinkError.self) {
            try reply.take(
                bytes(
                    """
                    50000000 0200 0003 07000000 f9260000 eaffffff 2c000000 1800 0505 07000000 00000000
                    2b00 0100 496e76616c69642070726566697820666f7220676976656e20707265666978206c656e67746800 00
                    """))
        }
        #expect(error?.code == EINVAL)
        #expect(
            error?.description
                == "cannot set route: Invalid argument (Invalid prefix for given prefix length)")
    }

    @Test func aRefusalThatRepeatsTheWholeRequestIsReadPastIt() {
        var reply = Reply(to: "test", sequence: 7)
        let error = #expect(throws: NetlinkError.self) {
            try reply.take(
                bytes(
                    """
                    30000000 0200 0002 07000000 00000000 eaffffff
                    14000000 1800 0505 07000000 00000000 00000001
                    0700 0100 6e6f00 00
                    """))
        }
        #expect(error?.message == "no")
    }

    @Test func aMissingRightSaysWhatToDo() {
        let error = NetlinkError(operation: "add address", code: EPERM)
        #expect(
            error.description
                == "cannot add address: Operation not permitted; run as root or with CAP_NET_ADMIN")
    }

    @Test func whatAnswersAnotherRequestIsPassedOver() throws {
        var reply = Reply(to: "test", sequence: 8)
        #expect(try reply.take(bytes(ReplyTests.acknowledgement)) == .incomplete)
        #expect(try reply.take(bytes(ReplyTests.done)) == .incomplete)
        #expect(reply.messages.isEmpty)
        #expect(try reply.take(bytes("14000000 0300 0200 08000000 f9260000 00000000")) == .complete)
    }

    @Test func aListThatChangedUnderTheKernelsHandIsInterrupted() throws {
        var reply = Reply(to: "test", sequence: 7)
        // NLM_F_DUMP_INTR on one of the messages; the end of the dump has it not.
        #expect(
            try reply.take(
                bytes(
                    "2c000000 1800 3200 07000000 f9260000 02 10 00 00 fe 03 00 06 00000000 0800 0f00 fe000000 0800 0100 0a090000"
                ))
                == .incomplete)
        #expect(try reply.take(bytes(ReplyTests.done)) == .interrupted)
    }

    @Test func aListThatChangedIsInterruptedAlsoWhereThatRouteIsOfNoInterest() throws {
        var reply = Reply(to: "test", sequence: 7)
        let route = bytes(
            "2c000000 1800 3200 07000000 f9260000 02 10 00 00 fe 03 00 06 00000000 0800 0f00 fe000000 0800 0100 0a090000"
        )
        #expect(try reply.take(route, interest: RouteInterest()) == .incomplete)
        #expect(reply.messages.isEmpty)
        #expect(try reply.take(bytes(ReplyTests.done)) == .interrupted)
    }

    @Test func aListThatTheKernelBreaksOffIsAnError() {
        var reply = Reply(to: "list routes", sequence: 7)
        let error = #expect(throws: NetlinkError.self) {
            try reply.take(bytes("14000000 0300 0200 07000000 f9260000 f4ffffff"))
        }
        #expect(error?.code == ENOMEM)
    }

    @Test(arguments: [
        "0f000000 0300 0200 07000000 f9260000 00000000",  // shorter than a header
        "18000000 0300 0200 07000000 f9260000 00000000",  // longer than the datagram
        "14000000 0300",  // cut off
    ])
    func aDatagramThatDoesNotParseIsAnErrorAndNoCrash(_ datagram: String) {
        var reply = Reply(to: "test", sequence: 7)
        let error = #expect(throws: NetlinkError.self) { try reply.take(bytes(datagram)) }
        #expect(error?.code == EBADMSG)
    }

    /// Every cut and many changed bytes of a reply with links, addresses and routes: never a crash, and a message
    /// that decodes holds only what can be.
    @Test func damagedRepliesAreSurvived() {
        let whole = bytes(
            """
            3c000000 1000 0000 07000000 f9260000  0000 0100 03000000 43100100 00000000
            0c00 0300 6e6f64652d743000  0800 0d00 4d000000  0800 0400 78050000
            48000000 1400 0200 07000000 f9260000  0a 40 82 00 03000000
            1400 0100 fd000000000000000000000000000005
            1400 0600 ffffffff ffffffff d2380400 d2380400  0800 0800 82000000
            48000000 1800 2200 07000000 f9260000  02 00 00 00 fe 03 00 01 00000000
            0800 0f00 fe000000  0800 0600 05000000  0c00 0800 0800 0200 14050000
            0800 0500 0a010201  0800 0400 03000000
            60000000 1800 2200 07000000 f9260000  02 10 00 00 fe 03 00 01 00000000
            0800 0100 0a430000  0800 1e00 03000000
            2c00 0900  1000 0000 03000000 0800 0500 0a010201
            1800 0000 05000000 0c00 1200 0a00 fd000000  0800 0400 05000000
            0800 0f00 fe000000
            38000000 2000 0200 07000000 f9260000  02 10 00 00 34 00 00 01 02000000
            0800 0100 0a420000  0800 0600 96140000  0800 0f00 34000000  0400 0300
            34000000 6800 0200 07000000 f9260000  00 00 00 00 00000000
            0800 0100 03000000  1400 0200 01000000 00000000 02000000 00000000
            """)
        var generator = SeededRandom(seed: 0x7715)
        for cut in 0...whole.count {
            decodeAll(Array(whole.prefix(cut)))
            for _ in 0..<32 where cut > 0 {
                var damaged = Array(whole.prefix(cut))
                damaged[Int.random(in: 0..<cut, using: &generator)] = UInt8.random(
                    in: 0...255, using: &generator)
                decodeAll(damaged)
            }
        }
    }

    /// Lengths that lie: of attributes, of next hops inside one, of prefixes; and nests without an end.
    @Test(arguments: [
        "0000 ffff", "0400 0900", "0300 0900 00000000", "ffff 0900 00000000",
        "0c00 0900 0000 0000 03000000", "0c00 0900 0700 0000 03000000", "0c00 0900 ffff 0000 03000000",
        "0c00 0900 0800 0000 ffffffff", "1400 0900 1000 0000 03000000 0900 0500 0a010201",
        "0800 0400 ffffffff", "0800 0800 0800 0800", "0500 0100 0a", "0600 1200 0a00", "0400 1200",
        "0500 1200 02",
        "0800 0f00 ffffffff", "0800 0600 ffffffff", "0c00 0800 0800 0200 ffffffff",
    ])
    func attributesThatLieAreSurvived(_ attribute: String) {
        for type in ["1000", "1400", "1800", "1900", "2000", "2100", "6800", "6900", "0200", "0300"] {
            for family in ["02 20", "0a 80", "02 ff", "ff 00"] {
                let payload = "\(family) ff ff ff ff ff ff ff 0d ffff" + " \(attribute)"
                let size = 16 + bytes(payload).count
                let header =
                    (size < 16 ? "0" : "") + String(size, radix: 16) + "000000 " + type
                    + " ffff 07000000 f9260000 "
                decodeAll(bytes(header + payload))
            }
        }
    }

    private func decodeAll(_ datagram: [UInt8]) {
        let interest = RouteInterest(prefixes: [IPv4Prefix("10.66.0.0/16")!], interfaceIndexes: [3])
        let all = Message.all(in: datagram)
        // The short way leaves out routes alone, and is as careful about lengths.
        let interesting = Message.all(in: datagram, interest: interest)
        #expect((all == nil) == (interesting == nil))
        for message in interesting ?? [] where message.type != .noOperation {
            #expect(all?.contains(message) == true)
        }
        for message in all ?? [] {
            _ = Link(message)
            _ = NetworkChange(message)
            _ = NextHopObject(message)
            if let rule = RoutingRule(message) { _ = "\(rule)" }
            var reply = Reply(to: "test", sequence: message.sequence)
            _ = try? reply.take(datagram)
            if let address = InterfaceAddress(message) {
                #expect((0...address.address.bitWidth).contains(address.prefixLength))
            }
            if let route = Route(answer: message) {
                #expect((0...route.destination.address.bitWidth).contains(route.destination.length))
                _ = "\(route) \(route.originText)"
            }
        }
    }
}
