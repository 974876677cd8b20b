import Addresses
import Health
import KubernetesNodes
import Leases
import Testing

/// What an API server does wrong, and what a node makes of it.
@Suite("An API server that fails")
struct APIFailureTests {
    private func failure(_ kind: APIFailure.Kind, _ message: String = "words") -> APIFailure {
        APIFailure(kind, message)
    }

    @Test("row 9: an API server that is away takes nothing away, and is asked at a growing pace")
    func away() {
        let one = MachineHarness()
        one.start(others: [node("a", "10.244.1.0/24", at: "198.18.9.2")])
        one.pass(.seconds(20))
        one.feed(.watchEnded(failure(.unreachable, "Connection refused"), watch: one.watchNumber))
        var tries = 0
        for _ in 0..<3600 {
            one.pass(.seconds(1))
            guard one.counts["watch"] ?? 0 > tries else { continue }
            tries = one.counts["watch"] ?? 0
            one.feed(.watchEnded(failure(.unreachable, "Connection refused"), watch: one.watchNumber))
        }
        #expect(tries > 500 && tries < 1500, "\(tries)")
        #expect(one.peers.count == 1 && one.lease != nil && !one.network.isStoreConnected)
        #expect(one.problem(.store)?.effect == .degraded)
        #expect(one.problem(.store)?.sentence.contains("packets flow on") ?? false)
        #expect(one.events(.storeUnreachable).count == 1)
        // It comes back: the watch goes on where it was, and nothing is listed.
        one.pass(.seconds(10))
        let after = one.watch?.after
        one.feed(.watchOpened(watch: one.watchNumber))
        #expect(after == "10" && one.counts["list"] == 1 && one.problem(.store) == nil)
        // Its store may be one of before: this node's own object is looked at.
        #expect(one.reading == .readOwnNode)
        #expect(one.events(.storeAnswersAgain).count == 1)
    }

    @Test(
        "row 9: a start without the API server goes by what was kept, and says so until the server lists its nodes"
    )
    func startWithoutServer() {
        let state = KeptState(
            nodeName: "own", written: 1_795_923_176, configuration: networkText,
            own: node("own", "10.244.0.0/24"),
            nodes: [
                node("a", "10.244.1.0/24", at: "198.18.9.2"), node("b", "10.244.2.0/24", at: "198.18.9.3"),
            ])
        let one = MachineHarness()
        one.feed(.timer, .kept(state), .networkFile(.text(networkText)))
        one.feed(.announce(NodeAnnouncement(publicAddress: IPv4Address(198, 18, 9, 1))))
        #expect(one.peers.isEmpty && one.lease == nil)
        one.fail(failure(.unreachable, "Connection refused"))
        #expect(one.peers.count == 2 && one.lease?.subnet.key == "10.244.0.0-24")
        #expect(one.requests == NodeAddressRequests() && one.patch == nil)
        let sentence = one.problem(.store, "last known")?.sentence ?? ""
        #expect(sentence.contains("2026-11-29T") && sentence.contains("/state/kubernetes.json"))
        #expect(one.events(.startingFromLastKnown).count == 1)
        for _ in 0..<600 {
            one.pass(.seconds(6))
            one.fail(failure(.unreachable, "Connection refused"))
        }
        #expect(one.peers.count == 2)
        // One of the two is gone since, the other has another address; this node is the same.
        one.pass(.seconds(10))
        one.answer(
            own: .success(node("own", "10.244.0.0/24", version: 50)),
            list: .success(
                NodePage(
                    nodes: [
                        node("own", "10.244.0.0/24", version: 50),
                        node("b", "10.244.2.0/24", at: "198.18.9.33"),
                    ],
                    version: "60")))
        #expect(one.lease?.replaced == nil)
        #expect(one.peers == ["10.244.2.0/24 198.18.9.33:8285"])
        #expect(one.problem(.store, "last known") == nil)
    }

    @Test(
        "a server that answers within a second is waited for; one that says nothing at all is not waited for longer"
    )
    func grace() {
        let state = KeptState(
            nodeName: "own", configuration: networkText, own: node("own", "10.244.0.0/24"),
            nodes: [node("a", "10.244.1.0/24", at: "198.18.9.2")])
        let one = MachineHarness()
        one.feed(.timer, .kept(state), .networkFile(.text(networkText)))
        one.pass(.milliseconds(900))
        #expect(one.peers.isEmpty)
        one.pass(.milliseconds(200))
        #expect(one.peers.count == 1)
        let other = MachineHarness()
        other.feed(.timer, .kept(state), .networkFile(.text(networkText)))
        other.feed(.ownNode(.success(node("own", "10.244.0.0/24"))))
        other.pass(.seconds(5))
        #expect(other.peers.isEmpty && other.events(.startingFromLastKnown).isEmpty)
    }

    @Test("what was kept by a node of another name is not this node's")
    func keptByAnother() {
        let state = KeptState(
            nodeName: "other", configuration: networkText, own: node("other", "10.244.0.0/24"), nodes: [])
        let one = MachineHarness()
        one.feed(.timer, .kept(state), .networkFile(.text(networkText)))
        one.pass(.seconds(2))
        #expect(one.requests == nil && one.events(.startingFromLastKnown).isEmpty)
    }

    @Test(
        "row 13: a version that is too old, in a watch or on a list's second page, is listed anew, and is no outage"
    )
    func tooOld() {
        let one = MachineHarness()
        one.start(others: [node("a", "10.244.1.0/24", at: "198.18.9.2")])
        one.pass(.seconds(20))
        one.tell(.failed(APIFailure(code: 410, status: nil)))
        #expect(one.reading == .list(.consistent, continuing: nil) && one.watch == nil)
        #expect(one.peers.count == 1 && one.problem(.store) == nil)
        one.feed(
            .page(
                .success(
                    NodePage(
                        nodes: [node("b", "10.244.2.0/24", at: "198.18.9.3")], version: "50",
                        continueToken: "t"))))
        one.feed(.page(.failure(APIFailure(code: 410, status: nil))))
        one.pass(.seconds(2))
        #expect(one.reading == .list(.consistent, continuing: nil) && one.counts["list"] == 4)
        one.feed(
            .page(.success(NodePage(nodes: [node("c", "10.244.3.0/24", at: "198.18.9.4")], version: "60"))))
        #expect(one.peers == ["10.244.3.0/24 198.18.9.4:8285"] && one.watch?.after == "60")
        // The list lacks this node, which it cannot: it is asked for by name.
        #expect(one.reading == .readOwnNode)
    }

    @Test(
        "a watch that is silent for too long is dead; a store of before is found by it, and listed as it is now"
    )
    func silent() {
        let one = MachineHarness()
        one.start(others: [node("a", "10.244.1.0/24", at: "198.18.9.2")])
        for version in 0..<10 {
            one.pass(.seconds(100))
            one.tell(.bookmark(version: "\(100 + version)"))
        }
        #expect(one.counts["list"] == 1)
        one.pass(.seconds(149), inSilence: true)
        #expect(one.counts["list"] == 1)
        one.pass(.seconds(2), inSilence: true)
        #expect(one.reading == .list(.notOlder(than: "109"), continuing: nil) && one.watch == nil)
        // An event of the watch that was given up is none.
        one.tell(.deleted(node("a", "10.244.1.0/24")))
        #expect(one.peers.count == 1)
        one.feed(
            .page(
                .failure(
                    APIFailure(.versionTooLarge, "504: Too large resource version", retryAfter: .seconds(1))))
        )
        #expect(one.problem(.store) == nil && one.events(.storeIsOlder).count == 1)
        one.pass(.seconds(3))
        #expect(one.reading == .list(.consistent, continuing: nil))
        one.feed(.page(.success(NodePage(nodes: [node("own", "10.244.0.0/24", version: 3)], version: "5"))))
        #expect(one.peers.isEmpty && one.watch?.after == "5")
        // Versions begin anew, so this node's annotations are looked at as they are now.
        #expect(one.patch != nil)
    }

    @Test(
        "a watch that ends in its time goes on from the last version, and one that ends at once not at once")
    func cleanEnd() {
        let one = MachineHarness()
        one.start()
        one.pass(.seconds(60))
        one.tell(.bookmark(version: "77"))
        one.feed(.watchEnded(nil, watch: one.watchNumber))
        #expect(one.watch?.after == "77" && one.counts["watch"] == 2 && one.counts["list"] == 1)
        for _ in 0..<600 {
            one.feed(.watchEnded(nil, watch: one.watchNumber))
            one.pass(.seconds(1))
            one.tell(.bookmark(version: "78"))
        }
        #expect((one.counts["watch"] ?? 0) < 300 && one.counts["list"] == 1)
    }

    @Test("a stream that is broken is listed anew")
    func broken() {
        let one = MachineHarness()
        one.start()
        one.feed(.watchEnded(failure(.malformed, "what came is no JSON"), watch: one.watchNumber))
        one.pass(.seconds(1))
        #expect(one.reading == .list(.notOlder(than: "10"), continuing: nil))
        #expect(one.problem(.store)?.sentence.contains("no JSON") ?? false)
    }

    @Test("row 21: a refused token is read again and tried at once; then the sentence has both clocks")
    func unauthorized() {
        let one = MachineHarness()
        let refusal = APIFailure(
            code: 401, status: nil, clocks: APIFailure.Clocks(local: 1_796_000_000, server: 1_796_003_600))
        one.feed(.timer, .kept(nil), .networkFile(.text(networkText)))
        one.reading = nil
        one.feed(.ownNode(.failure(refusal)))
        #expect(one.reading == .readOwnNode && one.problem(.store) == nil)
        one.feed(.ownNode(.failure(refusal)))
        let sentence = one.problem(.store)?.sentence ?? ""
        #expect(sentence.contains("401") && sentence.contains(WallTime.text(1_796_000_000)))
        #expect(sentence.contains(WallTime.text(1_796_003_600)))
        #expect(one.problem(.clock)?.sentence.contains("NTP") ?? false)
        one.feed(.clocks(APIFailure.Clocks(local: 1_796_000_000, server: 1_796_000_002)))
        #expect(one.problem(.clock) == nil)
    }

    @Test("a right that is missing is named, and asked for seldom")
    func forbidden() {
        let one = MachineHarness()
        one.start(others: [node("a", "10.244.1.0/24", at: "198.18.9.2")])
        one.feed(.announce(NodeAnnouncement(publicAddress: IPv4Address(198, 18, 9, 5))))
        for _ in 0..<1200 {
            if one.patch != nil {
                one.patch = nil
                one.feed(.patched(.failure(APIFailure(.forbidden, "403: nodes \"own\" is forbidden"))))
            }
            one.pass(.seconds(1))
            if one.counts["patch"] ?? 0 > 2, one.watch != nil { one.tell(.bookmark(version: "99")) }
        }
        #expect((one.counts["patch"] ?? 0) < 80)
        #expect(one.problem(.store)?.sentence.contains("nodes/status: patch") ?? false)
        #expect(one.peers.count == 1 && one.lease != nil)
    }

    @Test("who says Retry-After is not asked before", arguments: [1, 30, 300])
    func throttled(seconds: Int) {
        let one = MachineHarness()
        one.feed(.timer, .kept(nil), .networkFile(.text(networkText)))
        one.feed(.ownNode(.success(node("own", "10.244.0.0/24"))))
        one.feed(.page(.failure(APIFailure(code: 429, status: nil, retryAfterHeader: "\(seconds)"))))
        one.pass(.seconds(seconds) - .milliseconds(1))
        #expect(one.counts["list"] == 1)
        one.pass(.seconds(seconds) / 2 + .seconds(1))
        #expect(one.counts["list"] == 2)
    }

    @Test(
        "row 23: a patch that meets another object of the name, or none, asks what there is now",
        arguments: [APIFailure.Kind.conflict, .invalid, .notFound])
    func patchOfAnother(kind: APIFailure.Kind) {
        let one = MachineHarness()
        one.feed(.timer, .kept(nil), .networkFile(.text(networkText)))
        one.feed(.ownNode(.success(node("own", "10.244.0.0/24"))))
        one.feed(.page(.success(NodePage(nodes: [node("own", "10.244.0.0/24")], version: "10"))))
        one.feed(.announce(NodeAnnouncement(publicAddress: IPv4Address(198, 18, 9, 1))))
        #expect(one.patch?.uid == "uid-own")
        one.patch = nil
        one.reading = nil
        one.feed(.patched(.failure(APIFailure(kind, "field is immutable"))))
        #expect(one.reading == .readOwnNode && one.problem(.store) == nil)
        one.feed(.ownNode(.success(node("own", "10.244.0.0/24", uid: "second", version: 20))))
        one.pass(.seconds(1))
        #expect(one.patch?.uid == "second")
    }

    @Test(
        "what an answer means",
        arguments: [
            (401, nil, .unauthorized), (403, nil, .forbidden), (404, nil, .notFound), (409, nil, .conflict),
            (410, nil, .gone), (422, nil, .invalid), (429, nil, .throttled), (500, nil, .failed),
            (503, nil, .failed),
            (
                504, #"{"details":{"causes":[{"reason":"ResourceVersionTooLarge"}],"retryAfterSeconds":1}}"#,
                .versionTooLarge
            ),
            (504, #"{"reason":"Timeout"}"#, .failed), (302, nil, .malformed),
        ] as [(Int, String?, APIFailure.Kind)])
    func kinds(code: Int, body: String?, kind: APIFailure.Kind) throws {
        let status = try body.map { try APIObject(reading: Array($0.utf8), keys: keys) }
        let failure = APIFailure(code: code, status: status)
        #expect(failure.kind == kind && failure.message.hasPrefix("\(code): "))
        if kind == .versionTooLarge { #expect(failure.retryAfter == .seconds(1)) }
    }
}
