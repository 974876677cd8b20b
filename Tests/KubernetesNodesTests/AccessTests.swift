import KubernetesNodes
import Testing

@Suite("How the API server is reached")
struct AccessTests {
    private func access(
        _ kubeconfig: String? = nil, files: Set<String> = [],
        _ change: (inout KubernetesOptions) -> Void = { _ in }
    ) throws(KubernetesOptionsError) -> APIAccess {
        var options = KubernetesOptions()
        if kubeconfig != nil { options.kubeconfigFile = "/etc/kubernetes/kubelet.conf" }
        change(&options)
        return try APIAccess(
            options, kubeconfig: kubeconfig.map { Array($0.utf8) }, isFile: { files.contains($0) })
    }

    private func refusal(_ kubeconfig: String) -> String {
        do throws(KubernetesOptionsError) {
            _ = try access(kubeconfig)
            return ""
        } catch {
            return error.description
        }
    }

    private func yaml(cluster: String = "server: https://a:6443", user: String = "token: abc") -> String {
        """
        apiVersion: v1
        kind: Config
        preferences: {}
        clusters:
          - name: other
            cluster: {server: https://other}
          - name: lab
            cluster:
              \(cluster)
        contexts:
          - context: {cluster: lab, namespace: x, user: "me"}
            name: me@lab
        current-context: 'me@lab'
        users:
          - name: me
            user:
              \(user)
        """
    }

    @Test("in a pod: the service's address, brackets around IPv6, the mounted token and CA")
    func pod() throws {
        let directory = "/var/run/secrets/kubernetes.io/serviceaccount"
        let one = try access { $0.serviceHost = "10.96.0.1" }
        #expect(one.server.description == "https://10.96.0.1:443")
        #expect(one.token == .file(directory + "/token") && one.authority == .file(directory + "/ca.crt"))
        let two = try access {
            $0.serviceHost = "fd00::1"
            $0.servicePort = "6443"
        }
        #expect(two.server.description == "https://[fd00::1]:6443" && two.server.host == "fd00::1")
    }

    @Test(
        "row 8: --kube-api-url stands in for the address alone: token and CA are the pod's, and nobody is told a token in clear"
    )
    func apiURL() throws {
        let directory = "/var/run/secrets/kubernetes.io/serviceaccount"
        let files: Set<String> = [directory + "/token", directory + "/ca.crt"]
        let one = try access(files: files) { $0.apiURL = "https://192.0.2.1:6443/prefix/" }
        #expect(one.server.description == "https://192.0.2.1:6443/prefix")
        #expect(one.token == .file(directory + "/token") && one.authority == .file(directory + "/ca.crt"))
        let clear = try access(files: files) { $0.apiURL = "http://127.0.0.1:8080" }
        #expect(clear.token == nil && clear.server.port == 8080)
        let none = try access { $0.apiURL = "https://api.example.org" }
        #expect(none.token == nil && none.authority == nil && none.server.port == 443)
    }

    @Test("a kubeconfig, as YAML and as JSON, with paths from its own directory")
    func kubeconfig() throws {
        let one = try access(
            yaml(
                cluster:
                    "server: https://[fd00::1]:6443\n      certificate-authority: pki/ca.crt\n      tls-server-name: api",
                user:
                    "client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem\n      client-key: key.pem"
            ))
        #expect(one.server.description == "https://[fd00::1]:6443" && one.serverName == "api" && one.verifies)
        #expect(one.authority == .file("/etc/kubernetes/pki/ca.crt"))
        #expect(one.clientCertificate == .file("/var/lib/kubelet/pki/kubelet-client-current.pem"))
        #expect(one.clientKey == .file("/etc/kubernetes/key.pem") && one.token == nil)
        let two = try access(
            #"{"clusters":[{"name":"c","cluster":{"server":"https://a","insecure-skip-tls-verify":true}}],"#
                + #""contexts":[{"name":"x","context":{"cluster":"c","user":"u"}}],"current-context":"x","#
                + #""users":[{"name":"u","user":{"token":"abc","tokenFile":"t"}}]}"#)
        #expect(!two.verifies && two.token == .file("/etc/kubernetes/t"))
        let three = try access(yaml(user: "{username: me, password: \"1234\"}")) { $0.apiURL = "https://b:1" }
        #expect(
            three.username == "me" && three.password == "1234" && three.server.description == "https://b:1")
        let four = try access(
            yaml(cluster: "{server: https://a, certificate-authority-data: QUJD}", user: "token: 12345"))
        #expect(four.authority == .data(Array("ABC".utf8)) && four.token == .data(Array("12345".utf8)))
    }

    @Test(
        "a kubeconfig that does not do is refused with what of it, by name",
        arguments: [
            ("exec:\n        command: aws", "exec"), ("auth-provider: {name: gcp}", "auth-provider"),
            ("as: admin", "as of its user me"), ("client-certificate: a.pem", "client key"),
            ("client-certificate-data: \"!!\"\n      client-key: k", "client-certificate-data is no base64"),
        ])
    func refusedUsers(user: String, words: String) {
        let refusal = refusal(yaml(user: user))
        #expect(refusal.contains(words) && refusal.contains("/etc/kubernetes/kubelet.conf"), "\(refusal)")
    }

    @Test(
        "a kubeconfig that lacks something, or is none, is refused",
        arguments: [
            ("", "current-context"), ("{}", "current-context"), ("current-context: x", "no context x"),
            ("a: [", "line"), ("a: &x 1\nb: *x", "alias"), ("? [a]\n: b", "key"), ("\u{0}", "line"),
            ("current-context: x\ncontexts: [{name: x, context: {cluster: c}}]", "cluster"),
            (
                "current-context: x\ncontexts: [{name: x, context: {cluster: c}}]\nclusters: [{name: c, cluster: {}}]",
                "no server"
            ),
        ])
    func refusedFiles(text: String, words: String) {
        #expect(refusal(text).contains(words), "\(refusal(text))")
    }

    @Test("what of a cluster is not supported is refused by name, and so is a user that is not there")
    func refusedClusters() {
        #expect(refusal(yaml(cluster: "{server: https://a, proxy-url: http://p}")).contains("proxy-url"))
        #expect(refusal(yaml(cluster: "server: https://a:b")).contains("65535"))
        #expect(refusal(yaml().replacing("user: \"me\"", with: "user: you")).contains("you"))
    }

    @Test(
        "a URL that is none is refused with what it is",
        arguments: [
            "ftp://a", "https://", "https://a:0", "https://a:70000", "https://fd00::1", "https://[fd00::1",
            "https://[x]:1",
            "https://user@a", "https://a?b", "https://a b",
        ])
    func urls(url: String) {
        #expect(throws: KubernetesOptionsError.self) {
            _ = try APIServerAddress(url: url, origin: "--kube-api-url")
        }
    }

    @Test(
        "flannel's rule for the slash in the annotations' prefix",
        arguments: [
            ("flannel.alpha.coreos.com", "flannel.alpha.coreos.com/"), ("a.b/c", "a.b/c-"), ("a.b/", "a.b/"),
            ("a.b/c-", "a.b/c-"),
        ])
    func prefixes(given: String, full: String) throws {
        #expect(try AnnotationKeys(prefix: given).prefix == full)
    }

    @Test("a prefix that Kubernetes does not take is refused", arguments: ["a/b/c", "", "a b", "/x", "ä.b"])
    func refusedPrefixes(given: String) {
        #expect(throws: KubernetesOptionsError.self) { _ = try AnnotationKeys(prefix: given) }
    }
}
