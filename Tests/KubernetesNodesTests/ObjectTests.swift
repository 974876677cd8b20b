import JSON
import KubernetesNodes
import Seeded
import Testing

@Suite("What an API server says, read leniently")
struct ObjectTests {
    private let large = #"""
        { "kind" : "Node" , "apiVersion":"v1",
          "metadata":{"name":"n1","uid":"u-1","resourceVersion":"77","labels":{"a":"b"},"creationTimestamp":null,
            "annotations":{"flannel.alpha.coreos.com/public-ip":"198.18.9.\u0032","flannel.alpha.coreos.com/backend-type":"",
              "flannel.alpha.coreos.com/backend-data":"{\"Port\":9000}","flannel.alpha.coreos.com/kube-subnet-manager":"true",
              "flannel.alpha.coreos.com/backend-v6-data":"null","other/public-ip":"1.2.3.4","n":7},
            "managedFields":[{"f":{"a":[1,2,{"x":"]}"}]}}]},
          "spec":{"podCIDR":"10.244.1.0/24","podCIDRs":["fd00::/64","10.244.1.0/24",null],"taints":[{"key":"k"}]},
          "status":{"images":[{"names":["x\\\"y"],"sizeBytes":1e9}],
            "conditions":[{"type":"Ready","status":"True"},{"status":"False","type":"NetworkUnavailable"}]}}
        """#

    @Test("of a Node what counts is read, with any white space and in any order")
    func node() throws {
        let record = try #require(NodeRecord(try APIObject(reading: Array(large.utf8), keys: keys)))
        #expect(record.name == "n1" && record.uid == "u-1" && record.resourceVersion == "77")
        #expect(record.podCIDRs == ["10.244.1.0/24", "fd00::/64"])
        #expect(
            record.annotations.publicIP == "198.18.9.2" && record.annotations.backendData == #"{"Port":9000}"#
        )
        #expect(record.annotations.backendType == "" && record.annotations.isManaged == "true")
        #expect(record.networkUnavailable == "False")
        #expect(record.ipv4?.description == "10.244.1.0/24" && record.ipv6?.description == "fd00::/64")
        // What is kept on disk says the same.
        let again = try #require(
            NodeRecord(try APIObject(reading: Array(record.json(keys: keys).utf8), keys: keys)))
        #expect(again == record)
    }

    @Test(
        "what is absent, null, or of another type is nothing",
        arguments: [
            "{}", #"{"metadata":null,"spec":7,"status":"Failure"}"#,
            #"{"metadata":{"name":7,"annotations":[]}}"#,
            #"{"spec":{"podCIDRs":{"a":1},"podCIDR":null}}"#, "[]", "7", #""text""#, "null",
        ])
    func lenient(text: String) throws {
        let object = try APIObject(reading: Array(text.utf8), keys: keys)
        #expect(object.name == nil && object.podCIDRs.isEmpty && object.annotations == NodeAnnotations())
        #expect(NodeRecord(object) == nil)
    }

    @Test(
        "what is no JSON is said to be none",
        arguments: [
            "", "{", #"{"metadata":{"name":"x"#, #"{"metadata" {}}"#, "{}}", #"{"kind":"Node"}}"#, "<html>",
            #"{"a":}"#, "{,}",
        ])
    func noJSON(text: String) {
        #expect(throws: JSONError.self) { _ = try APIObject(reading: Array(text.utf8), keys: keys) }
    }

    @Test("the events of a watch, however they are cut into pieces", arguments: [1, 2, 3, 7, 64, 10_000])
    func pieces(length: Int) throws {
        let text = """
            {"type":"ADDED","object":\(large)}
            {"type":"MODIFIED","object":{"metadata":{"name":"a]}","uid":"2"}}}{"object":{"metadata":{"name":"b"}},"type":"DELETED"}

            {"type":"BOOKMARK","object":{"kind":"Node","metadata":{"resourceVersion":"99"}}}
            {"type":"ERROR","object":{"kind":"Status","message":"too old resource version: 1 (2)","reason":"Expired","code":410}}
            {"type":"NEWS","object":{}}
            """
        var splitter = JSONSplitter(.sequence)
        var events: [WatchEvent] = []
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            for object in try splitter.take(Array(rest.prefix(length))) {
                if let event = try WatchEvent(reading: object, keys: keys) { events.append(event) }
            }
            rest = rest.dropFirst(length)
        }
        #expect(splitter.isComplete && events.count == 5)
        guard case .put(let first) = events[0], case .put(let second) = events[1],
            case .deleted(let third) = events[2], case .bookmark("99") = events[3],
            case .failed(let failure) = events[4]
        else {
            Issue.record("\(events)")
            return
        }
        #expect(first.name == "n1" && second.name == "a]}" && third.name == "b" && failure.kind == .gone)
    }

    @Test("a list is read node by node, and what is beside the nodes is small", arguments: [1, 5, 4096])
    func list(length: Int) throws {
        let text = """
            {"kind":"NodeList","metadata":{"continue":"abc","resourceVersion":"12"},"x":{"items":[{"kind":"no"}]},
             "items" : [ \(large) ,{"metadata":{"name":"b"}},null, 7, "[{"] , "after":[1]}
            """
        var splitter = JSONSplitter(.elements(of: "items"))
        var names: [String] = []
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            for object in try splitter.take(Array(rest.prefix(length))) {
                names.append(try APIObject(reading: object, keys: keys).name ?? "")
            }
            rest = rest.dropFirst(length)
        }
        #expect(names == ["n1", "b"] && splitter.isComplete)
        let outer = try APIObject(reading: splitter.rest, keys: keys)
        #expect(outer.continueToken == "abc" && outer.resourceVersion == "12" && outer.kind == "NodeList")
    }

    @Test(
        "a stream that is none, or of which a part is too long, is refused",
        arguments: [
            "HTTP error", "]", "7", #""x""#, "[]",
        ])
    func noStream(text: String) {
        var splitter = JSONSplitter(.sequence)
        #expect(throws: JSONStreamError.self) { _ = try splitter.take(Array(text.utf8)) }
        var list = JSONSplitter(.elements(of: "items"))
        #expect(throws: JSONStreamError.self) { _ = try list.take(Array(text.utf8)) }
        var long = JSONSplitter(.sequence)
        #expect(throws: JSONStreamError.self) {
            _ = try long.take(Array(#"{"a":""#.utf8))
            while true { _ = try long.take([UInt8](repeating: 0x61, count: 1 << 16)) }
        }
    }

    @Test("what is kept reads as it was; what is damaged, or of another version, is nothing")
    func kept() {
        let state = KeptState(
            nodeName: "own\"\\\u{1}", written: 1_796_000_000, configuration: networkText,
            own: MachineHarness.own, nodes: [MachineHarness.own, MachineHarness.own])
        let text = state.text(keys: keys)
        #expect(KeptState(reading: Array(text.utf8), keys: keys) == state)
        #expect(KeptState(reading: Array(text.utf8.dropLast(3)), keys: keys) == nil)
        #expect(
            KeptState(reading: Array(text.replacing("\"version\":1", with: "\"version\":2").utf8), keys: keys)
                == nil)
        #expect(KeptState(reading: [], keys: keys) == nil)
        #expect(KeptState(reading: Array("{}".utf8), keys: keys) == nil)
    }

    @Test("times of day, both ways")
    func times() {
        #expect(
            WallTime.text(0) == "1970-01-01T00:00:00Z" && WallTime.text(951_782_400) == "2000-02-29T00:00:00Z"
        )
        #expect(WallTime.text(-1) == "1969-12-31T23:59:59Z")
        #expect(WallTime.seconds(httpDate: "Sun, 29 Nov 2026 03:32:56 GMT") == 1_795_923_176)
        #expect(WallTime.text(1_795_923_176) == "2026-11-29T03:32:56Z")
        for text in ["", "Sun, 29 Nov 2026", "Sun, 99 Nov 2026 03:32:56 GMT", "Sun, 29 Nov 2026 03:32 GMT"] {
            #expect(WallTime.seconds(httpDate: text) == nil)
        }
        var random = SeededRandom(seed: 7)
        let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
        for _ in 0..<2000 {
            let seconds = random.below(4_000_000_000)
            let text = WallTime.text(seconds)
            let parts = text.split { "-T:Z".contains($0) }.compactMap { Int($0) }
            let date =
                "Sun, \(parts[2]) \(months[parts[1] - 1]) \(parts[0]) \(parts[3]):\(parts[4]):\(parts[5]) GMT"
            #expect(WallTime.seconds(httpDate: date) == seconds, "\(text)")
        }
    }
}

extension MachineHarness {
    static var own: NodeRecord {
        var own = KubernetesNodesTests.node("own", "10.244.0.0/24", at: "198.18.9.1", data: #"{"Port":9000}"#)
        own.networkUnavailable = "False"
        return own
    }
}
