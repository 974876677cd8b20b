import Addresses
import Health
import KubernetesNodes
import Leases
import Testing

@Suite("A node's place in a cluster")
struct ClusterMachineTests {
    @Test(
        "a start reads the node, lists from the server's cache, watches from exactly the list's version, and announces"
    )
    func start() throws {
        let one = MachineHarness()
        one.feed(.timer, .kept(nil), .networkFile(.text(networkText)))
        #expect(one.reading == .readOwnNode)
        one.feed(.ownNode(.success(node("own", "10.244.0.0/24"))))
        #expect(one.requests == NodeAddressRequests())
        #expect(one.reading == .list(.cached, continuing: nil))
        #expect(one.watch == nil && one.lease == nil && one.patch == nil)
        one.feed(
            .page(
                .success(
                    NodePage(
                        nodes: [node("own", "10.244.0.0/24"), node("a", "10.244.1.0/24", at: "198.18.9.2")],
                        version: "100",
                        continueToken: "more"))))
        #expect(one.reading == .list(.cached, continuing: "more") && one.peers.isEmpty)
        one.feed(
            .page(.success(NodePage(nodes: [node("b", "10.244.2.0/24", at: "198.18.9.3")], version: "100"))))
        #expect(one.watch?.after == "100")
        #expect(one.peers == ["10.244.1.0/24 198.18.9.2:8285", "10.244.2.0/24 198.18.9.3:8285"])
        #expect(!one.network.isStoreConnected || one.network.conditions.isEmpty)

        one.feed(.announce(NodeAnnouncement(publicAddress: IPv4Address(198, 18, 9, 1))))
        #expect(one.lease?.subnet.key == "10.244.0.0-24" && one.lease?.expiry == nil)
        let patch = try #require(one.patch)
        #expect(patch.uid == "uid-own" && !patch.clearsNetworkUnavailable)
        #expect(
            patch.json(keys: keys, time: 0)
                == #"{"metadata":{"uid":"uid-own","annotations":{"flannel.alpha.coreos.com/backend-data":"{\"Port\":8285}","#
                + #""flannel.alpha.coreos.com/backend-type":"","flannel.alpha.coreos.com/kube-subnet-manager":"true","#
                + #""flannel.alpha.coreos.com/public-ip":"198.18.9.1"}}}"#)
        _ = one.answerPatch(of: node("own", "10.244.0.0/24"), version: 101)
        one.pass(.seconds(60))
        #expect(one.patch == nil && one.counts["patch"] == 1)
    }

    @Test("row 1: a node without podCIDR waits, says who assigns one, and goes on when there is one")
    func noPodCIDR() {
        let one = MachineHarness()
        one.start(own: node("own", nil))
        #expect(one.lease == nil && one.patch == nil)
        #expect(one.problem(.lease)?.effect == .cutOff)
        #expect(one.problem(.lease)?.sentence.contains("--allocate-node-cidrs") ?? false)
        #expect(one.problem(.lease)?.sentence.contains("--pod-network-cidr") ?? false)
        one.pass(.seconds(600))
        #expect(one.events(.waitingForSubnet).count == 1 && one.end == nil)
        one.tell(.put(node("own", "10.244.7.0/24", version: 20)))
        #expect(one.lease?.subnet.key == "10.244.7.0-24" && one.problem(.lease) == nil)
        #expect(one.patch != nil)
    }

    @Test(
        "row 2: a podCIDR outside Network is refused with both, nothing is announced, and net-conf.json is read again"
    )
    func podCIDROutside() {
        let one = MachineHarness()
        one.start(own: node("own", "10.42.3.0/24"))
        let sentence = one.problem(.lease)?.sentence ?? ""
        #expect(sentence.contains("10.42.3.0/24") && sentence.contains("10.244.0.0/16"))
        #expect(one.lease == nil && one.patch == nil && one.problem(.lease)?.effect == .cutOff)
        one.feed(.networkFile(.text(#"{"Network":"10.42.0.0/16"}"#)))
        #expect(one.lease?.subnet.key == "10.42.3.0-24" && one.problem(.lease) == nil)
    }

    @Test(
        "row 20: of two networks net-conf.json may name one; both in one value or in a list are refused by name, and nothing else changes",
        arguments: [
            (#"{"Network":"10.244.0.0/16,10.245.0.0/16"}"#, "10.244.0.0/16,10.245.0.0/16"),
            (#"{"Network":["10.244.0.0/16","10.245.0.0/16"]}"#, "Network is"),
        ])
    func twoNetworks(_ text: String, _ words: String) {
        let one = MachineHarness()
        one.start(others: [node("a", "10.244.1.0/24", at: "198.18.9.2")])
        one.feed(.networkFile(.text(text)))
        #expect(one.problem(.configuration)?.sentence.contains(words) ?? false)
        #expect(one.problem(.configuration)?.effect == .degraded)
        #expect(one.lease?.subnet.key == "10.244.0.0-24" && one.peers == ["10.244.1.0/24 198.18.9.2:8285"])
        // Whose podCIDR is of the other network is no peer, and it is said why.
        one.tell(.put(node("b", "10.245.2.0/24", at: "198.18.9.3", version: 20)))
        #expect(one.peers == ["10.244.1.0/24 198.18.9.2:8285"])
        #expect(one.network.skipped.map(\.key) == ["b"])
        #expect(one.network.skipped.first?.reason.contains("10.245.2.0/24") ?? false)
    }

    @Test(
        "row 3: a node that was deleted and made anew is followed by its uid: annotations, podCIDR, and what to do"
    )
    func madeAnew() throws {
        let one = MachineHarness()
        one.start(others: [node("a", "10.244.1.0/24", at: "198.18.9.2")])
        one.tell(.deleted(node("own", "10.244.0.0/24", version: 20)))
        #expect(one.reading == .readOwnNode)
        one.feed(.ownNode(.failure(APIFailure(.notFound, "404: nodes \"own\" not found"))))
        // The subnet stays; the sentence says what brings the node back.
        #expect(one.lease?.subnet.key == "10.244.0.0-24")
        #expect(one.problem(.lease)?.sentence.contains("restart its kubelet") ?? false)
        one.tell(.put(node("own", nil, uid: "second", version: 30)))
        #expect(one.lease?.subnet.key == "10.244.0.0-24")
        one.tell(.put(node("own", "10.244.2.0/24", uid: "second", version: 31)))
        #expect(one.lease?.subnet.key == "10.244.2.0-24" && one.lease?.replaced?.key == "10.244.0.0-24")
        let patch = try #require(one.patch)
        #expect(patch.uid == "second" && patch.annotations?.publicIP == "198.18.9.1")
        #expect(one.problem(.lease, "before")?.sentence.contains("cni0") ?? false)
        #expect(one.events(.nodeMadeAnew).count == 1 && one.events(.subnetChanged).count == 1)
        #expect(one.end == nil)
    }

    @Test(
        "a new podCIDR ends the daemon where --on-lease-loss says so, once: the next start takes it as it is")
    func madeAnewAndExit() throws {
        let one = MachineHarness(lossPolicy: .exit)
        one.start()
        one.tell(.put(node("own", "10.244.2.0/24", uid: "second", version: 31)))
        #expect(one.end?.contains("10.244.0.0/24") ?? false)
        let kept = try #require(one.kept.last)
        #expect(kept.own?.podCIDRs == ["10.244.2.0/24"])

        let next = MachineHarness(lossPolicy: .exit)
        next.feed(.timer, .kept(kept), .networkFile(.text(networkText)))
        next.feed(.ownNode(.success(node("own", "10.244.2.0/24", uid: "second", version: 31))))
        next.feed(.announce(NodeAnnouncement(publicAddress: IPv4Address(198, 18, 9, 1))))
        #expect(next.end == nil && next.lease?.subnet.key == "10.244.2.0-24" && next.lease?.replaced == nil)
        // While the daemon was away, it changed once more: that is told, and ends nothing.
        let later = MachineHarness(lossPolicy: .exit)
        later.feed(.timer, .kept(kept), .networkFile(.text(networkText)))
        later.feed(.ownNode(.success(node("own", "10.244.9.0/24", uid: "third", version: 99))))
        later.feed(.announce(NodeAnnouncement(publicAddress: IPv4Address(198, 18, 9, 1))))
        #expect(later.end == nil && later.lease?.replaced?.key == "10.244.2.0-24")
    }

    @Test("an old subnet that another node was given meanwhile is given up, even before there is a new one")
    func oldSubnetTaken() {
        let one = MachineHarness()
        one.start()
        one.tell(.put(node("own", nil, uid: "second", version: 30)))
        #expect(one.lease != nil)
        one.tell(.put(node("a", "10.244.0.0/24", at: "198.18.9.2", version: 31)))
        #expect(one.lease == nil && one.peers == ["10.244.0.0/24 198.18.9.2:8285"])
    }

    @Test(
        "row 4: annotations that somebody takes away are written again at once, counted, and not without end")
    func annotationsRemoved() {
        let one = MachineHarness()
        let own = one.start()
        var bare = own
        bare.annotations.publicIP = nil
        bare.resourceVersion = "20"
        one.tell(.put(bare))
        #expect(one.patch?.annotations?.publicIP == "198.18.9.1")
        _ = one.answerPatch(of: bare, version: 21)
        #expect(one.events(.annotationsRestored).last?.fields["times"] == "1")
        for version in 0..<600 {
            bare.resourceVersion = "\(22 + 2 * version)"
            one.tell(.put(bare))
            if one.patch != nil { _ = one.answerPatch(of: bare, version: 23 + 2 * version) }
            one.pass(.seconds(1))
        }
        let patches = one.counts["patch"] ?? 0
        #expect(patches > 30 && patches < 80, "\(patches)")
        #expect(one.problem(.lease, "annotations")?.sentence.contains("somebody keeps changing") ?? false)
    }

    @Test("an event of before the patch does not make another one")
    func oldEventAfterPatch() {
        let one = MachineHarness()
        one.start()
        one.tell(.put(node("own", "10.244.0.0/24", version: 10)))
        #expect(one.patch == nil)
    }

    @Test(
        "row 7: NetworkUnavailable is cleared after the network stands, with the annotations in one patch, until it holds"
    )
    func networkUnavailable() throws {
        let one = MachineHarness()
        var own = one.start()
        one.pass(.seconds(30))
        #expect(one.patch == nil)
        one.feed(.networkStands(true))
        let patch = try #require(one.patch)
        #expect(patch.clearsNetworkUnavailable && patch.annotations == nil)
        #expect(patch.json(keys: keys, time: 1_795_923_176).contains(#""lastHeartbeatTime":"2026-11-29T"#))
        one.patch = nil
        one.feed(.patched(.failure(APIFailure(.failed, "500: etcdserver: request timed out"))))
        #expect(one.problem(.store) != nil)
        one.pass(.seconds(10))
        #expect(one.patch?.clearsNetworkUnavailable ?? false)
        own = one.answerPatch(of: own, version: 30)
        #expect(one.problem(.store) == nil && one.patch == nil)
        // A controller sets it again.
        own.networkUnavailable = "True"
        own.annotations.publicIP = nil
        own.resourceVersion = "40"
        one.tell(.put(own))
        #expect(one.patch?.clearsNetworkUnavailable ?? false && one.patch?.annotations != nil)

        let other = MachineHarness(setsCondition: false)
        other.start()
        other.feed(.networkStands(true))
        #expect(other.patch == nil)
    }

    @Test(
        "an answer that comes after the watch told of something later is not believed: to a patch, and to a question"
    )
    func lateAnswers() throws {
        let one = MachineHarness()
        var own = one.start()
        one.feed(.networkStands(true))
        #expect(one.patch?.clearsNetworkUnavailable ?? false)
        // The server has done it, and a controller sets it again, before its answer is here.
        var later = own
        later.networkUnavailable = "True"
        later.resourceVersion = "40"
        one.tell(.put(later))
        own = one.answerPatch(of: own, version: 30)
        #expect(own.networkUnavailable == "False")
        #expect(one.patch?.clearsNetworkUnavailable ?? false)
        // So it is asked for; that answer is late as well.
        #expect(one.reading == .readOwnNode)
        var latest = later
        latest.annotations.publicIP = nil
        latest.resourceVersion = "50"
        one.tell(.put(latest))
        one.reading = nil
        one.feed(.ownNode(.success(later)))
        #expect(one.reading == .readOwnNode)
        later = one.answerPatch(of: latest, version: 60)
        #expect(one.patch?.annotations?.publicIP != nil)

        // What nothing later was told of is believed though it is older: the store was put back.
        one.reading = nil
        let put = node("own", "10.244.7.0/24", version: 7)
        one.feed(.ownNode(.success(put)))
        #expect(one.patch?.uid == put.uid)
    }

    @Test("a list of before what a patch's answer told since it was asked for is not believed of this node")
    func lateList() {
        let one = MachineHarness()
        let own = one.start()
        var bare = own
        bare.annotations.publicIP = nil
        bare.resourceVersion = "40"
        one.tell(.put(bare))
        #expect(one.patch?.annotations?.publicIP != nil)
        // The watch is of a history that the server no longer has, so the nodes are listed, and the patch is answered first.
        one.feed(.watchEnded(APIFailure(.gone, "410: expired"), watch: one.watchNumber))
        one.pass(.seconds(10))
        #expect(one.reading == .list(.consistent, continuing: nil))
        let written = one.answerPatch(of: bare, version: 60)
        one.reading = nil
        one.feed(.page(.success(NodePage(nodes: [bare], version: "50"))))
        #expect(one.patch == nil)
        #expect(written.annotations.publicIP == "198.18.9.1" && one.lease?.subnet.key == "10.244.0.0-24")
    }

    @Test("rows 10 to 12: the operator's addresses and the node's own are followed while it runs")
    func addresses() {
        let one = MachineHarness()
        var own = one.start()
        #expect(one.requests == NodeAddressRequests())
        own.annotations.publicIPOverwrite = "203.0.113.7"
        own.annotations.nodePublicIP = "198.18.9.4"
        own.resourceVersion = "20"
        one.tell(.put(own))
        #expect(
            one.requests
                == NodeAddressRequests(
                    nodePublicIP: IPv4Address(198, 18, 9, 4), publicIPOverwrite: IPv4Address(203, 0, 113, 7)))
        #expect(one.patch?.annotations?.publicIP == "203.0.113.7")
        #expect(one.lease?.endpoint.description == "203.0.113.7:8285")
        own = one.answerPatch(of: own, version: 21)
        own.annotations.publicIPOverwrite = "nonsense"
        own.resourceVersion = "22"
        one.tell(.put(own))
        #expect(one.patch?.annotations?.publicIP == "198.18.9.1")
        #expect(one.problem(.lease, "flannel.alpha.coreos.com/public-ip-overwrite") != nil)
        own = one.answerPatch(of: own, version: 23)
        // The address of the node is another one.
        one.feed(.announce(NodeAnnouncement(publicAddress: IPv4Address(198, 18, 9, 99))))
        #expect(one.patch?.annotations?.publicIP == "198.18.9.99")
        #expect(one.events(.annotationIgnored).count == 1)
    }

    @Test(
        "the port that is open is announced, the network's too: each node reads a changed ConfigMap at its own time"
    )
    func openPort() {
        func configuration(port: Int) -> String {
            #"{"Network":"10.244.0.0/16","Backend":{"Port":\#(port)}}"#
        }
        let others = [
            node("a", "10.244.1.0/24", at: "198.18.9.2", data: #"{"Port":8285}"#),
            node("flanneld", "10.244.2.0/24", at: "198.18.9.3"),
        ]
        let one = MachineHarness()
        var own = one.start(others: others, network: configuration(port: 8285))
        #expect(own.annotations.backendData == #"{"Port":8285}"#)
        one.feed(.networkFile(.text(configuration(port: 8472))))
        // This node takes in on the port of before still, and so does the other twill.
        #expect(one.patch == nil)
        #expect(one.peers == ["10.244.1.0/24 198.18.9.2:8285", "10.244.2.0/24 198.18.9.3:8472"])
        var announcement = NodeAnnouncement(publicAddress: IPv4Address(198, 18, 9, 1))
        announcement.openPort = 8472
        one.feed(.announce(announcement))
        #expect(one.patch?.annotations?.backendData == #"{"Port":8472}"#)
        own = one.answerPatch(of: own, version: 20)
        // A start with another port again tells nobody before that one is open; a port of the node's own is announced alike.
        let next = MachineHarness()
        next.start(own: own, network: configuration(port: 9000))
        #expect(next.patch == nil && next.counts["patch"] == nil)
        announcement.openPort = 9001
        announcement.port = 9001
        next.feed(.announce(announcement))
        #expect(next.patch?.annotations?.backendData == #"{"Port":9001}"#)
    }

    @Test("the network may not hold this node's own address; with another address it may")
    func underlayInsideNetwork() {
        let one = MachineHarness()
        one.feed(.timer, .kept(nil), .announce(NodeAnnouncement(publicAddress: IPv4Address(10, 244, 200, 1))))
        one.feed(.networkFile(.text(networkText)))
        #expect(one.network.configuration == nil && !one.network.refusedNetworks.isEmpty)
        one.feed(.announce(NodeAnnouncement(publicAddress: IPv4Address(198, 18, 9, 1))))
        #expect(one.network.configuration != nil && one.network.refusedNetworks.isEmpty)
    }

    @Test(
        "what net-conf.json says of subnets means nothing; what is wrong with it is said, and the one before holds"
    )
    func networkFile() {
        let one = MachineHarness()
        one.start(
            network:
                #"{"Network":"10.244.0.0/16","SubnetLen":99,"SubnetMin":"1.2.3.4","Backend":{"Port":9999}}"#)
        #expect(one.lease?.endpoint.port == 9999 && one.problem(.configuration) == nil)
        one.feed(.networkFile(.text("{")))
        #expect(one.problem(.configuration)?.effect == .degraded && one.network.configuration != nil)
        one.feed(.networkFile(.missing))
        #expect(one.problem(.configuration)?.sentence.contains("/etc/kube-flannel/net-conf.json") ?? false)
        one.feed(.networkFile(.text(#"{"Network":"10.99.0.0/16"}"#)))
        #expect(one.problem(.configuration)?.sentence.contains("10.244.0.0/24") ?? false)
        #expect(one.network.configuration?.networkText == "10.244.0.0/16")
        let other = MachineHarness()
        other.start(network: #"{"Network":"10.244.0.0/16","Backend":{"Type":"ipsec"}}"#)
        #expect(other.problem(.configuration)?.effect == .cutOff && other.lease == nil && other.end == nil)
    }

    @Test(
        "an IPv4 prefix is found among the podCIDRs, whichever comes first; IPv6 goes with it where the network has it"
    )
    func dualStack() {
        var own = node("own", "fd00:10:244::/64")
        own.podCIDRs.append("10.244.0.0/24")
        let one = MachineHarness()
        one.start(
            own: own, network: #"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10::/32"}"#)
        #expect(one.lease?.subnet.key == "10.244.0.0-24&fd00:10:244::-64")
        let other = MachineHarness()
        other.start(own: node("own", "fd00:10:244::/64"))
        #expect(other.problem(.lease)?.sentence.contains("IPv4") ?? false)
    }

    @Test("row 22: a node that the cluster does not know is waited for, with where its name comes from")
    func unknownNode() {
        let one = MachineHarness()
        one.feed(.timer, .kept(nil), .networkFile(.text(networkText)))
        one.feed(.ownNode(.failure(APIFailure(.notFound, "404: nodes \"own\" not found"))))
        one.feed(
            .page(.success(NodePage(nodes: [node("a", "10.244.1.0/24", at: "198.18.9.2")], version: "10"))))
        #expect(one.problem(.lease)?.sentence.contains("--node-name") ?? false)
        #expect(one.peers.count == 1 && one.events(.nodeIsAbsent).count == 1)
        one.pass(.seconds(65))
        #expect(one.counts["readOwnNode"] == 2)
        one.feed(.ownNode(.success(node("own", "10.244.0.0/24", version: 50))))
        #expect(one.problem(.lease) == nil)
    }

    @Test("without NODE_NAME the pod says the node's name")
    func byPod() {
        let one = MachineHarness(name: nil)
        one.feed(.timer, .kept(nil), .networkFile(.text(networkText)))
        #expect(one.reading == .readPod)
        one.feed(.pod(.failure(APIFailure(.forbidden, "403: pods \"twill\" is forbidden"))))
        #expect(one.problem(.store)?.sentence.contains("403") ?? false)
        one.pass(.seconds(3))
        one.feed(.pod(.success("own")))
        #expect(one.reading == .readOwnNode && one.problem(.store) == nil)
    }
}
