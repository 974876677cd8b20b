import Addresses
import Health
import KubernetesNodes
import Leases
import Testing

@Suite("The other nodes of a cluster")
struct PeerNodesTests {
    private func started(_ others: [NodeRecord]) -> MachineHarness {
        let one = MachineHarness()
        one.start(others: others)
        return one
    }

    @Test("row 25: a node with malformed annotations is skipped by its name, and goes when it is deleted")
    func malformed() {
        var broken = node("broken", "10.244.3.0/24", at: "not an address")
        let one = started([node("a", "10.244.1.0/24", at: "198.18.9.2"), broken])
        #expect(one.peers == ["10.244.1.0/24 198.18.9.2:8285"])
        #expect(one.network.skipped.map(\.key) == ["broken"])
        #expect(one.network.skipped[0].reason.contains("not an address"))
        broken.annotations.publicIP = "198.18.9.3"
        one.tell(.put(broken))
        #expect(one.peers.count == 2 && one.network.skipped.isEmpty)
        // It is broken again, and deleted so.
        broken.annotations.publicIP = "???"
        one.tell(.put(broken))
        #expect(one.peers.count == 2 && one.problem(.peer, "broken")?.sentence.contains("???") ?? false)
        one.tell(.deleted(broken))
        #expect(one.peers.count == 1 && one.network.skipped.isEmpty && one.problem(.peer, "broken") == nil)
        #expect(one.events(.nodeSkipped).count == 2 && one.events(.nodeNoLongerSkipped).count == 2)
    }

    @Test(
        "what makes no peer, with its reason",
        arguments: [
            (node("x", "10.244.3.0/24", at: "198.18.9.3", type: "vxlan"), "its backend is vxlan"),
            (node("x", "10.42.3.0/24", at: "198.18.9.3"), "lies outside Network, 10.244.0.0/16"),
            (node("x", nil, at: "198.18.9.3"), "no podCIDR"),
            (node("x", "rubbish", at: "198.18.9.3"), "rubbish"),
            (node("x", "10.244.0.128/25", at: "198.18.9.3"), "overlaps this node's own subnet"),
            (node("x", "10.244.3.0/24", at: "198.18.9.1"), "announces this node's own address"),
            (node("x", "10.244.3.0/24", at: "127.0.0.1"), "no other node can send to"),
            (node("x", "10.244.3.0/24", at: "10.244.9.9"), "lies inside Network"),
            (node("x", "10.244.3.0/24", at: "198.18.9.3", data: "{"), "no JSON"),
            (node("x", "10.244.3.0/24", at: "198.18.9.3", data: #"{"Port":0}"#), "BackendData.Port"),
            (node("x", "10.244.3.0/24", at: ""), "no IPv4 address"),
        ])
    func skipped(record: NodeRecord, reason: String) {
        let one = started([record, node("a", "10.244.1.0/24", at: "198.18.9.2")])
        #expect(one.network.skipped.count == 1 && one.network.skipped.first?.key == "x")
        #expect(one.network.skipped.first?.reason.contains(reason) ?? false, "\(one.network.skipped)")
        #expect(one.peers == ["10.244.1.0/24 198.18.9.2:8285"])
    }

    @Test(
        "flannel's nodes are taken as they are, a port of a node's own is followed, and twill's are told from flannel's"
    )
    func flannel() {
        let one = started([
            node("a", "10.244.1.0/24", at: "198.18.9.2"),
            node("b", "10.244.2.0/24", at: "198.18.9.3", type: "udp"),
            node("c", "10.244.3.0/24", at: "198.18.9.4", data: #"{"Port":9000}"#),
            node("d", "10.244.4.0/24", at: "198.18.9.5", data: "{}"), node("kubelet-only", "10.244.5.0/24"),
            // Another length than the others' is fine.
            node("e", "10.244.6.0/23", at: "198.18.9.6"),
        ])
        #expect(
            one.peers.map { $0.split(separator: " ")[1] } == [
                "198.18.9.2:8285", "198.18.9.3:8285", "198.18.9.4:9000", "198.18.9.5:8285", "198.18.9.6:8285",
            ])
        #expect(one.network.peers.map(\.isTwill) == [false, false, true, true, false])
        #expect(one.network.skipped.isEmpty)
    }

    @Test(
        "row 4: a peer whose annotations are taken away stays until it is deleted, made anew, or its podCIDR is another's"
    )
    func annotationsTakenAway() {
        let one = started([
            node("a", "10.244.1.0/24", at: "198.18.9.2"), node("b", "10.244.2.0/24", at: "198.18.9.3"),
        ])
        one.tell(.put(node("a", "10.244.1.0/24")), .put(node("b", "10.244.2.0/24")))
        #expect(one.peers.count == 2 && one.problem(.peer, "a")?.effect == .degraded)
        // A list says the same.
        one.tell(.failed(APIFailure(code: 410, status: nil)))
        one.feed(
            .page(
                .success(
                    NodePage(
                        nodes: [
                            node("own", "10.244.0.0/24", version: 9), node("a", "10.244.1.0/24"),
                            node("b", "10.244.2.0/24"),
                        ],
                        version: "30"))))
        #expect(one.peers.count == 2)
        one.tell(.put(node("a", "10.244.1.0/24", uid: "second")))
        #expect(one.peers == ["10.244.2.0/24 198.18.9.3:8285"] && one.problem(.peer, "a") == nil)
        // What it last said was of another podCIDR.
        one.tell(.put(node("d", "10.244.4.0/24", at: "198.18.9.5")))
        one.tell(.put(node("d", "10.244.5.0/24")))
        #expect(one.peers.count == 1)
        one.tell(.put(node("c", "10.244.2.0/24", at: "198.18.9.7")))
        #expect(one.peers == ["10.244.2.0/24 198.18.9.7:8285"])
    }

    @Test("row 13: a list is the whole truth: who is not in it is no peer, also where the watch said nothing")
    func wholeTruth() {
        let one = started([
            node("a", "10.244.1.0/24", at: "198.18.9.2"), node("b", "10.244.2.0/24", at: "198.18.9.3"),
        ])
        one.tell(.failed(APIFailure(code: 410, status: nil)))
        #expect(one.peers.count == 2)
        one.feed(
            .page(
                .success(
                    NodePage(
                        nodes: [
                            node("own", "10.244.0.0/24", version: 9),
                            node("b", "10.244.2.0/24", at: "198.18.9.33"),
                        ],
                        version: "30"))))
        #expect(one.peers == ["10.244.2.0/24 198.18.9.33:8285"])
    }

    @Test("an event that changes nothing that counts is none")
    func heartbeats() {
        let one = started([node("a", "10.244.1.0/24", at: "198.18.9.2")])
        let before = one.network
        one.network.isStoreConnected.toggle()
        for version in 2..<200 {
            one.tell(.put(node("a", "10.244.1.0/24", at: "198.18.9.2", version: version)))
        }
        // Nothing was published, or it would be as before.
        #expect(one.network != before)
        one.pass(.seconds(100))
        #expect(one.kept.count <= 2)
    }

    @Test("two nodes with one public IP are named; with different ports they are two")
    func oneAddress() {
        let one = started([
            node("a", "10.244.1.0/24", at: "198.18.9.2"), node("b", "10.244.2.0/24", at: "198.18.9.2"),
            node("c", "10.244.3.0/24", at: "198.18.9.2", data: #"{"Port":9000}"#),
        ])
        #expect(one.peers.count == 3)
        let sentence = one.problem(.peer, "address 198.18.9.2:8285")?.sentence ?? ""
        #expect(sentence.contains("a and b") && !sentence.contains("c all"))
        one.tell(.deleted(node("a", nil)))
        #expect(one.problem(.peer, "address 198.18.9.2:8285") == nil && one.peers.count == 2)
    }

    @Test("of two nodes with one podCIDR the one in use stays, and the other is named")
    func onePodCIDR() {
        let one = started([node("b", "10.244.1.0/24", at: "198.18.9.2")])
        one.tell(
            .put(node("a", "10.244.0.0/20", at: "198.18.9.3")),
            .put(node("c", "10.244.1.0/25", at: "198.18.9.4")))
        #expect(one.peers == ["10.244.1.0/24 198.18.9.2:8285"])
        one.tell(.put(node("d", "10.244.1.0/24", at: "198.18.9.5")))
        #expect(one.network.skipped.contains { $0.key == "d" && $0.reason.contains("overlaps that of b") })
        one.tell(.deleted(node("b", nil)))
        #expect(one.peers.count == 1)
    }
}
