import Addresses
import CLinux
import Counters
import Forwarding
import FoundationEssentials
import Glibc
import Host
import Testing
import Worker

@testable import NodeDaemon

/// What two releases say to each other: bytes that must stay readable.
@Suite struct HandOverStateTests {
    /// What release 0.1.0 writes.
    private static let golden = #"""
        {"acceptsAnySource":false,"build":"0.1.0","counters":{"packets_sent":17},"engine":"auto","histograms":{"read_batch":[1,0,0,0,0,0,0,0,0,1]},"mtu":1472,"node":{"identity":"0011223344","stateDirectory":"/var/lib/twill","subnetFile":"/run/flannel/subnet.env"},"otherCounts":[0,0,0,0,0],"pathMTUs":{"10.66.2.0/24":1400},"peers":[{"address":"192.168.0.2","counts":[5,500,6,600,7],"port":8285,"subnet":"10.66.2.0/24","subnetIPv6":"fd00:66:2::/64","takesBursts":false}],"queueDrops":3,"socketDrops":[2],"subnet":"10.66.1.0/24","tunnel":{"address":"10.66.1.0","name":"flannel0","offloads":31,"workers":1},"underlay":{"address":"192.168.0.1","port":8285},"version":1}
        """#

    @Test func theStateOfTheFirstReleaseIsReadAndWrittenByteForByte() throws {
        let state = try HandOverState(reading: Array(Self.golden.utf8))
        #expect(String(decoding: state.bytes, as: UTF8.self) == Self.golden)
        let configuration = try #require(state.configuration(tuning: Tuning()))
        #expect(configuration.tunnelName == "flannel0")
        #expect(configuration.underlay == Endpoint(address: IPv4Address("192.168.0.1")!, port: 8285))
        #expect(configuration.tunnelAddress == IPv4Address("10.66.1.0"))
        #expect(configuration.tuning.workers == .fixed(1))
        let routes = state.routes
        #expect(routes.localIPv4 == IPv4Prefix("10.66.1.0/24") && routes.mtu == 1472)
        let peer = try #require(routes.peers.first)
        #expect(peer.endpoint == Endpoint(address: IPv4Address("192.168.0.2")!, port: 8285))
        #expect(!peer.takesBursts && peer.ipv6 == IPv6Prefix("fd00:66:2::/64"))
        let totals = state.totals
        #expect(totals.counters[.packetsSent] == 17)
        #expect(totals.counters[.readBatch].sum == 1)
        #expect(totals.peers.peers[peer.subnets]?.bytesReceived == 600)
        #expect(totals.kernel.sockets == [2] && totals.kernel.queue == 3)
    }

    /// A network of IPv6 alone: device, sockets and peers have no address of IPv4.
    @Test func theStateOfIPv6AloneIsReadAndWrittenByteForByte() throws {
        let text = #"""
            {"acceptsAnySource":false,"build":"0.1.0","mtu":1452,"node":{"stateDirectory":"/var/lib/twill","subnetFile":"/run/flannel/subnet.env"},"peers":[{"address":"fd20:32::102","counts":[5,500,6,600,7],"port":8285,"subnetIPv6":"fd00:66:0:2::/64","takesBursts":true}],"subnetIPv6":"fd00:66:0:1::/64","tunnel":{"addressIPv6":"fd00:66:0:1::","name":"flannel0","offloads":31,"workers":2},"underlay":{"address":"fd20:32::101","port":8285},"version":1}
            """#
        let state = try HandOverState(reading: Array(text.utf8))
        #expect(String(decoding: state.bytes, as: UTF8.self) == text)
        let configuration = try #require(state.configuration(tuning: Tuning()))
        let own = Endpoint(address: try #require(IPAddress("fd20:32::101")), port: 8285)
        #expect(configuration.underlay == own)
        #expect(configuration.tunnelAddress == nil)
        #expect(configuration.tunnelAddressIPv6 == IPv6Address("fd00:66:0:1::"))
        #expect(state.routes.localIPv4 == nil && state.routes.localIPv6 == IPv6Prefix("fd00:66:0:1::/64"))
        let peer = try #require(state.routes.peers.first)
        #expect(peer.ipv4 == nil && peer.ipv6 == IPv6Prefix("fd00:66:0:2::/64"))
        #expect(peer.endpoint == Endpoint(address: try #require(IPAddress("fd20:32::102")), port: 8285))
        #expect(state.totals.peers.peers[peer.subnets]?.bytesReceived == 600)
    }

    /// A device without an address that can be read is nobody's to go on with.
    @Test(arguments: [#""address":"x","addressIPv6":"fd00::""#, #""addressIPv6":"x""#, #""x":1"#])
    func aDeviceWithoutAnAddressIsNotTakenOver(addresses: String) throws {
        let text = #"""
            {"version":1,"build":"9","acceptsAnySource":false,"mtu":1400,"peers":[],"node":{"subnetFile":"/s","stateDirectory":"/d"},
             "tunnel":{\#(addresses),"name":"t0","offloads":0,"workers":1},"underlay":{"address":"192.168.0.1","port":1}}
            """#
        let state = try HandOverState(reading: Array(text.utf8))
        #expect(state.configuration(tuning: Tuning()) == nil)
    }

    /// Another release leaves out what it does not know of, and says more than this one knows.
    @Test func membersThatAreUnknownOrMissingDoNoHarm() throws {
        let text = #"""
            {"version":9,"news":{"a":[1]},"build":"9.9","acceptsAnySource":false,"mtu":1400,
             "node":{"subnetFile":"/s","stateDirectory":"/d","x":1},
             "tunnel":{"address":"10.66.1.0","name":"t0","offloads":0,"workers":2,"color":"red"},
             "underlay":{"address":"192.168.0.1","port":1},"counters":{"no_such_counter":5,"packets_sent":6},
             "histograms":{"read_batch":[1,2]},"peers":[{"address":"nowhere","port":1,"takesBursts":true}]}
            """#
        let state = try HandOverState(reading: Array(text.utf8))
        #expect(state.totals.counters[.packetsSent] == 6)
        #expect(state.totals.counters[.readBatch].sum == 0)
        #expect(state.routes.peers.isEmpty)
        #expect(state.configuration(tuning: Tuning())?.tuning.workers == .fixed(2))
    }

    @Test(arguments: [
        "", "{", "[]", #"{"version":1}"#,
        #"{"version":1,"tunnel":{"address":"x","name":"t","offloads":0,"workers":-1},"underlay":{"address":"y","port":70000}}"#,
    ])
    func whatIsNoStateIsNone(text: String) {
        #expect(throws: (any Error).self) { try HandOverState(reading: Array(text.utf8)) }
    }

    @Test func theFramesAreThoseOfTheFirstRelease() throws {
        let frames: [(HandOverMessage, String)] = [
            (HandOverMessage(kind: .ask, build: "0.1.0"), #"{"build":"0.1.0","kind":"ask","version":1}"#),
            (HandOverMessage(kind: .ready), #"{"kind":"ready","version":1}"#),
            (HandOverMessage(kind: .mine), #"{"kind":"mine","version":1}"#),
            (
                HandOverMessage(kind: .refusal, build: "0.1.0", reason: "no"),
                #"{"build":"0.1.0","kind":"refusal","reason":"no","version":1}"#
            ),
            (
                HandOverMessage(
                    kind: .given, build: "0.1.0", descriptors: ["tunnel-0", "state"], isContinued: true),
                #"{"build":"0.1.0","descriptors":["tunnel-0","state"],"isContinued":true,"kind":"given","version":1}"#
            ),
        ]
        for (message, text) in frames {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.sortedKeys]
            #expect(String(decoding: try encoder.encode(message), as: UTF8.self) == text)
            #expect(try JSONDecoder().decode(HandOverMessage.self, from: Data(text.utf8)) == message)
        }
        let later = #"{"kind":"offer","version":7,"new":true,"build":"9"}"#
        #expect(try JSONDecoder().decode(HandOverMessage.self, from: Data(later.utf8)).kind == .offer)
    }

    @Test func aFileThatSomebodyCanStillChangeIsNotRead() async throws {
        let isRead = await onThread { () -> (Bool, Bool) in
            let sealed = SealedFile.make([1, 2, 3])
            let open = twill_memory_file("open")
            write(open, [1, 2, 3], 3)
            defer {
                close(sealed)
                close(open)
            }
            return (SealedFile.read(sealed) == [1, 2, 3], SealedFile.read(open) == nil)
        }
        #expect(isRead.0 && isRead.1)
    }

    /// The old daemon waits no longer for the new one than half of the queue lasts, and for the first one less than for who
    /// comes again.
    @Test(arguments: [
        (UInt64(0), 1000, true, Int32(200)), (9, 0, true, 200), (50_000, 1000, true, 40),
        (25_000, 500, true, 40), (1_000_000, 1000, true, 10), (0, 1000, false, 40),
        (100_000, 1000, false, 20), (1_000_000, 1000, false, 10),
    ])
    func whatComesMeanwhileHasRoom(packets: UInt64, milliseconds: Int, comesAgain: Bool, patience: Int32) {
        #expect(
            Successor.takingMilliseconds(
                queueLength: 4000, packets: packets, in: .milliseconds(milliseconds), comesAgain: comesAgain)
                == patience)
    }

    /// The descriptors go with the packet, and nothing is left open of one that can't be read.
    @Test func descriptorsComeWithTheirNames() async throws {
        let received = try await onThread { () throws -> ([String], Int) in
            var ends: [Int32] = [-1, -1]
            socketpair(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue), 0, &ends)
            defer { for end in ends { close(end) } }
            let (one, other) = (
                HandOverConnection(descriptor: ends[0]), HandOverConnection(descriptor: ends[1])
            )
            try one.send(HandOverMessage(kind: .given, descriptors: ["a", "b"]), [0, 1])
            let (message, descriptors) = try other.receive(withinMilliseconds: 1000)
            for descriptor in descriptors { close(descriptor) }
            #expect(one.user == geteuid())
            // Fewer descriptors than names.
            try one.send(HandOverMessage(kind: .given, descriptors: ["a", "b"]), [0])
            #expect(throws: HandOverFailure.self) { try other.receive(withinMilliseconds: 1000) }
            #expect(throws: HandOverFailure.self) { try other.receive(withinMilliseconds: 10) }
            return (message.descriptors ?? [], descriptors.count)
        }
        #expect(received.0 == ["a", "b"] && received.1 == 2)
    }
}
