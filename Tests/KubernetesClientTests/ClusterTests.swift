import Addresses
import Foundation
import Health
import KubernetesClient
import Kit
import KubernetesNodes
import Leases
import KubernetesTesting
import Testing

@Suite("A cluster's client against an API server", .serialized)
struct ClusterTests {
    @Test("a whole life over TLS: start, announcement, events in pieces of any size, a clean end, a bookmark")
    func life() async throws {
        try await withServer(tls: true) { server, certificates in
            let one = try RunningCluster(server, certificates: certificates, times: patientTimes)
            try await one.wait("peers") { $0.network.peers.count == 1 && $0.requests != nil }
            #expect(one.peers == ["10.244.1.0/24 198.18.9.2:8285"])
            #expect(one.now().lease == nil)
            await one.announce()
            try await one.wait("a subnet") { $0.lease?.subnet.key == "10.244.0.0-24" }
            await one.cluster.setNetworkStands(true)
            try await one.wait("the node's annotations") { _ in
                server.state.withLock {
                    $0.nodes["own"]?.annotations.publicIP == "198.18.9.1"
                        && $0.nodes["own"]?.networkUnavailable == "False"
                }
            }
            #expect(server.requests(.list).map(\.uri) == ["/api/v1/nodes?limit=500&resourceVersion=0"])
            let patch = try #require(server.requests(.patch).first)
            #expect(patch.uri == "/api/v1/nodes/own/status")
            #expect(patch.headers["Content-Type"] == ["application/strategic-merge-patch+json"])
            #expect(patch.headers["Authorization"] == ["Bearer first"])
            let watch = try #require(server.requests(.watch).first)
            #expect(watch.uri.contains("allowWatchBookmarks=true") && watch.uri.contains("timeoutSeconds="))

            server.state.withLock { $0.pieceLength = 7 }
            server.put(node("b", "10.244.2.0/24", at: "198.18.9.3"))
            server.delete("a")
            try await one.wait("the changes") { $0.network.peers.map(\.subnet.key) == ["10.244.2.0-24"] }
            server.state.withLock { $0.pieceLength = nil }
            try await one.waitForWatch(server)
            server.bookmark()
            server.endWatches()
            try await one.wait("another watch") { _ in server.requests(.watch).count >= 2 }
            server.put(node("c", "10.244.3.0/24", at: "198.18.9.4"))
            try await one.wait("what came after it") { $0.network.peers.count == 2 }
            #expect(server.requests(.list).count == 1)
            await one.cluster.poke()
            try await one.wait("a heartbeat") { $0.beats > 3 }
            await one.stop()
            try? FileManager.default.removeItem(atPath: one.directory)
        }
    }

    @Test(
        "row 8 and 21: the token's file is read for each request; a refused one at once again, also with --kube-api-url"
    )
    func token() async throws {
        try await withServer(tls: true) { server, certificates in
            server.state.withLock { $0.token = "second" }
            server.state.withLock { $0.clockOffset = 4000 }
            let one = try RunningCluster(server, certificates: certificates)
            try await one.wait("a refusal") {
                $0.network.conditions[Component(.store)]?.sentence.contains("401") ?? false
            }
            let told = one.now().network.conditions
            #expect(told[Component(.store)]?.sentence.contains("the server's") ?? false)
            #expect(told[Component(.clock)] != nil)
            try "second\n".write(toFile: one.directory + "/token", atomically: true, encoding: .utf8)
            try await one.wait("an answer") { $0.network.isStoreConnected }
            // The next one is exchanged while all is well, as the kubelet does it, through a symbolic link.
            server.state.withLock { $0.token = "third" }
            try FileManager.default.createDirectory(
                atPath: one.directory + "/..2", withIntermediateDirectories: true)
            try "third".write(toFile: one.directory + "/..2/token", atomically: true, encoding: .utf8)
            try FileManager.default.removeItem(atPath: one.directory + "/token")
            try FileManager.default.createSymbolicLink(
                atPath: one.directory + "/token", withDestinationPath: "..2/token")
            await one.announce()
            try await one.wait("the patch") { _ in
                server.state.withLock { $0.nodes["own"]?.annotations.publicIP != nil }
            }
            await one.stop()
        }
    }

    @Test(
        "a server whose certificate another authority signed is refused, with the clock; the right CA mends it"
    )
    func authority() async throws {
        try await withServer(tls: true) { server, certificates in
            let certificates = try #require(certificates)
            let directory = try RunningCluster.makeDirectory(certificates)
            try FileManager.default.removeItem(atPath: directory + "/ca.crt")
            try FileManager.default.copyItem(
                atPath: certificates["stranger.pem"], toPath: directory + "/ca.crt")
            let one = try RunningCluster(server, certificates: certificates, directory: directory)
            try await one.wait("a refusal") {
                $0.network.conditions[Component(.store)]?.sentence.contains("this machine's clock says")
                    ?? false
            }
            try FileManager.default.removeItem(atPath: directory + "/ca.crt")
            try FileManager.default.copyItem(
                atPath: certificates["authority.pem"], toPath: directory + "/ca.crt")
            try await one.wait("an answer") { $0.network.isStoreConnected }
            await one.stop()
        }
    }

    @Test("a client certificate from a kubeconfig, in the file and beside it")
    func clientCertificate() async throws {
        let certificates = try Certificates.shared.get()
        let server = try FakeAPIServer(certificates: certificates, asksForCertificate: true)
        server.put(node("own", "10.244.0.0/24"))
        let directory = try RunningCluster.makeDirectory(certificates)
        for name in ["client.pem", "client.key"] {
            try FileManager.default.copyItem(atPath: certificates[name], toPath: directory + "/" + name)
        }
        let inline = """
            certificate-authority-data: \(try certificates.base64("authority.pem"))
            """
        let kubeconfig = """
            apiVersion: v1
            kind: Config
            current-context: here
            clusters:
            - name: lab
              cluster:
                server: https://127.0.0.1:\(server.port)
                \(inline)
            contexts:
            - {name: here, context: {cluster: lab, user: me}}
            users:
            - name: me
              user:
                client-certificate: client.pem
                client-key: client.key
            """
        try kubeconfig.write(toFile: directory + "/kubeconfig", atomically: true, encoding: .utf8)
        let one = try RunningCluster(server, certificates: certificates, directory: directory) {
            $0.apiURL = nil
            $0.kubeconfigFile = directory + "/kubeconfig"
        }
        try await one.wait("an answer") { $0.network.isStoreConnected }
        #expect(server.requests(.list).first?.headers["Authorization"].isEmpty ?? false)
        await one.stop()
        server.stop()
    }

    @Test(
        "row 9: the API server is away for a while and at the next start; what was last known carries the packets"
    )
    func away() async throws {
        try await withServer { server, _ in
            let one = try RunningCluster(server, certificates: nil)
            await one.announce()
            try await one.wait("all") {
                $0.network.isStoreConnected && $0.lease != nil && !$0.network.peers.isEmpty
            }
            try await one.wait("what is kept") { _ in
                (try? String(contentsOfFile: one.directory + "/state/kubernetes.json", encoding: .utf8))?
                    .contains("198.18.9.2") ?? false
            }
            let port = server.port
            server.stop()
            try await one.wait("the outage") { $0.network.conditions[Component(.store)]?.effect == .degraded }
            #expect(one.peers.count == 1 && one.now().lease != nil)
            await one.stop()

            let two = try RunningCluster(server, certificates: nil, directory: one.directory)
            await two.announce()
            try await two.wait("what was last known") { $0.network.peers.count == 1 && $0.lease != nil }
            #expect(two.now().network.conditions[Component(.store, "last known")] != nil)
            #expect(two.now().requests == NodeAddressRequests())
            let again = try FakeAPIServer(certificates: nil, port: port)
            again.put(node("own", "10.244.0.0/24"))
            again.put(node("b", "10.244.2.0/24", at: "198.18.9.3"))
            try await two.wait("the truth") {
                $0.network.peers.map(\.subnet.key) == ["10.244.2.0-24"] && $0.network.conditions.isEmpty
            }
            await two.stop()
            again.stop()
        }
    }

    @Test("a connection that dies without a word is found by its silence, and nothing is lost")
    func deadConnection() async throws {
        try await withServer { server, _ in
            let one = try RunningCluster(server, certificates: nil)
            try await one.wait("peers") { $0.network.isStoreConnected && $0.network.peers.count == 1 }
            while server.state.withLock({ $0.watchers.isEmpty }) {
                try await Task.sleep(for: .milliseconds(1))
            }
            let before = server.requests(.watch).count
            // The server forgets the watch and keeps the connection.
            server.state.withLock { $0.watchers = [:] }
            server.put(node("b", "10.244.2.0/24", at: "198.18.9.3"))
            try await one.wait("the lost event") { $0.network.peers.count == 2 }
            #expect(server.requests(.watch).count > before && server.requests(.list).count == 1)
            await one.stop()
        }
    }

    @Test(
        "a watch that is taken on and says nothing, as after an etcd of before, is listed anew: 504, then without a version"
    )
    func silentWatch() async throws {
        try await withServer { server, _ in
            var times = shortTimes
            times.silence = .seconds(30)
            server.failNext(.watch, .cut(after: ""))
            let one = try RunningCluster(
                server, certificates: nil, times: times, silenceLimit: .milliseconds(1500))
            try await one.wait("a watch") { _ in server.requests(.watch).count >= 2 }
            server.state.withLock { $0.watchers = [:] }
            server.failNext(
                .list,
                .status(
                    504, message: "Timeout: Too large resource version: 999, current: 3",
                    details:
                        #"{"causes":[{"reason":"ResourceVersionTooLarge","message":"x"}],"retryAfterSeconds":1}"#
                ))
            server.state.withLock { $0.nodes["a"]?.annotations.publicIP = "198.18.9.77" }
            try await one.wait("the truth") {
                $0.network.peers.first?.endpoint.address.description == "198.18.9.77"
            }
            let uris = server.requests(.list).map(\.uri)
            #expect(uris.contains { $0.contains("resourceVersionMatch=NotOlderThan") })
            #expect(uris.contains("/api/v1/nodes?limit=500"))
            await one.stop()
        }
    }

    @Test("row 13: too old, as the watch's word, and on the second page of a list")
    func tooOld() async throws {
        try await withServer { server, _ in
            for index in 0..<600 {
                server.put(
                    node(
                        "n\(index)", "10.244.\(2 + index / 128).\(index % 128 * 2)/31",
                        at: "198.18.\(20 + index / 200).\(1 + index % 200)"))
            }
            let one = try RunningCluster(server, certificates: nil, times: patientTimes)
            try await one.wait("peers") { $0.network.peers.count == 601 }
            try await one.waitForWatch(server)
            server.failNext(.page, .status(410, message: "The provided continue parameter is too old"))
            server.delete("n0")
            server.endWatches(
                with: #"{"type":"ERROR","object":{"kind":"Status","reason":"Expired","code":410}}"# + "\n")
            try await one.wait("two lists") { _ in server.requests(.page).count == 2 }
            try await one.wait("peers") { $0.network.peers.count == 600 }
            #expect(one.now().lines.contains { $0.hasPrefix("store_history_is_gone") })
            await one.stop()
        }
    }

    @Test(
        "refusals and mistakes of a server, each in its words, and all of them are waited for",
        arguments: [
            (403, "cannot list resource nodes", "nodes/status: patch"),
            (500, "etcdserver: request timed out", "500"),
            (503, "apiserver is shutting down", "503"),
        ])
    func refusals(code: Int, message: String, words: String) async throws {
        try await withServer { server, _ in
            server.failNext(.list, .status(code, message: message))
            server.failNext(.watch, .status(429, message: "too many requests", headers: ["Retry-After": "1"]))
            let one = try RunningCluster(server, certificates: nil)
            try await one.wait("the words") {
                let sentence = $0.network.conditions[Component(.store)]?.sentence ?? ""
                return sentence.contains(message) && sentence.contains(words)
            }
            try await one.wait("an answer") { $0.network.isStoreConnected && $0.network.conditions.isEmpty }
            await one.stop()
        }
    }

    @Test(
        "what is no answer of an API server, or is cut in the middle, takes nothing away",
        arguments: [
            FakeAPIServer.Fault.body("<html>Welcome to the portal</html>"),
            .body(#"{"kind":"NodeList","items":[]}"#),
            .body(
                #"{"kind":"NodeList","metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"x"}},"#),
            .cut(after: #"{"kind":"NodeList","metadata":{"resourceVersion":"7"},"items":["#), .status(302),
        ])
    func nonsense(fault: FakeAPIServer.Fault) async throws {
        try await withServer { server, _ in
            let one = try RunningCluster(server, certificates: nil, times: patientTimes)
            try await one.wait("peers") { $0.network.isStoreConnected && $0.network.peers.count == 1 }
            try await one.waitForWatch(server)
            server.failNext(.list, fault)
            server.endWatches(with: "{\"type\":\"ERROR\",\"object\":{\"code\":410}}\n")
            try await one.wait("a list, and another one") { _ in server.requests(.list).count >= 3 }
            try await one.wait("connection") { $0.network.isStoreConnected }
            #expect(one.peers.count == 1)
            await one.stop()
        }
    }

    @Test("row 3: the node is deleted and made anew with another uid and podCIDR")
    func madeAnew() async throws {
        try await withServer { server, _ in
            let one = try RunningCluster(server, certificates: nil)
            await one.announce()
            try await one.wait("a subnet") { $0.lease != nil && $0.network.isStoreConnected }
            server.delete("own")
            try await one.wait("the words") {
                $0.network.conditions[Component(.lease)]?.sentence.contains("restart its kubelet") ?? false
            }
            server.put(node("own", "10.244.9.0/24", uid: "second"))
            try await one.wait("the new subnet") {
                $0.lease?.subnet.key == "10.244.9.0-24" && $0.lease?.replaced?.key == "10.244.0.0-24"
            }
            try await one.wait("annotations") { _ in
                server.state.withLock { $0.nodes["own"]?.annotations.publicIP == "198.18.9.1" }
            }
            // Somebody takes them away.
            server.change("own") { $0.annotations = NodeAnnotations() }
            try await one.wait("annotations again") { _ in
                server.state.withLock { $0.nodes["own"]?.annotations.publicIP == "198.18.9.1" }
            }
            await one.stop()
        }
    }

    @Test("a new podCIDR ends a daemon that is told so, after it was kept")
    func lost() async throws {
        try await withServer { server, _ in
            let one = try RunningCluster(server, certificates: nil) { $0.lossPolicy = .exit }
            await one.announce()
            try await one.wait("a subnet") { $0.lease != nil && $0.network.isStoreConnected }
            server.put(node("own", "10.244.9.0/24", uid: "second"))
            try await one.wait("the end") { $0.lost != nil }
            let kept = try String(contentsOfFile: one.directory + "/state/kubernetes.json", encoding: .utf8)
            #expect(kept.contains("10.244.9.0/24"))
            await one.stop()
        }
    }

    @Test("net-conf.json is read again when it changes, through the symbolic links of a ConfigMap")
    func networkFile() async throws {
        try await withServer { server, _ in
            let directory = try RunningCluster.makeDirectory(nil)
            let files = FileManager.default
            for (name, port) in [("..1", 8285), ("..2", 9000)] {
                try files.createDirectory(
                    atPath: "\(directory)/conf/\(name)", withIntermediateDirectories: true)
                try #"{"Network":"10.244.0.0/16","Backend":{"Port":\#(port)}}"#.write(
                    toFile: "\(directory)/conf/\(name)/net-conf.json", atomically: true, encoding: .utf8)
            }
            try files.createSymbolicLink(atPath: directory + "/conf/..data", withDestinationPath: "..1")
            try files.createSymbolicLink(
                atPath: directory + "/conf/net-conf.json", withDestinationPath: "..data/net-conf.json")
            let one = try RunningCluster(server, certificates: nil, directory: directory) {
                $0.networkConfigurationPath = directory + "/conf/net-conf.json"
            }
            try await one.wait("peers") { $0.network.peers.first?.endpoint.port == 8285 }
            try files.createSymbolicLink(atPath: directory + "/conf/..next", withDestinationPath: "..2")
            #expect(rename(directory + "/conf/..next", directory + "/conf/..data") == 0)
            try await one.wait("the other port") { $0.network.peers.first?.endpoint.port == 9000 }
            await one.stop()
        }
    }

    @Test("the pod says the node's name")
    func byPod() async throws {
        try await withServer { server, _ in
            let one = try RunningCluster(server, certificates: nil) {
                $0.nodeName = nil
                $0.podName = "twill-x7k"
                $0.podNamespace = "kube-flannel"
            }
            await one.announce()
            try await one.wait("a subnet") { $0.lease != nil }
            #expect(server.requests(.pod).first?.uri == "/api/v1/namespaces/kube-flannel/pods/twill-x7k")
            await one.stop()
        }
    }

    @Test("options by which nothing can be reached are refused, each with what to do")
    func refusedOptions() throws {
        func refusal(_ change: (inout KubernetesOptions) -> Void) -> String? {
            var options = KubernetesOptions()
            options.nodeName = "own"
            options.serviceHost = "10.96.0.1"
            change(&options)
            do throws(KubernetesOptionsError) {
                _ = try KubernetesCluster(options: options, logger: .init(label: "none"))
                return nil
            } catch {
                return error.description
            }
        }
        #expect(refusal { _ in } == nil)
        #expect(refusal { $0.nodeName = nil }?.contains("NODE_NAME") ?? false)
        #expect(refusal { $0.serviceHost = nil }?.contains("--kube-api-url") ?? false)
        #expect(
            refusal { $0.kubeconfigFile = "/nowhere/kubeconfig" }?.contains("/nowhere/kubeconfig") ?? false)
        #expect(refusal { $0.annotationPrefix = "a/b/c" }?.contains("a/b/c") ?? false)
        #expect(refusal { $0.apiURL = "ftp://x" }?.contains("ftp://x") ?? false)
    }
}
