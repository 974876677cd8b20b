import KubernetesNodes
import Testing

@Suite("What Kubernetes is told by its environment")
struct OptionsTests {
    @Test(
        "the environment of a pod is taken over, what is empty is none, and flannel's other variables are named"
    )
    func environment() {
        var options = KubernetesOptions()
        options.nodeName = "by-flag"
        options.take(environment: [
            "NODE_NAME": "", "POD_NAME": "twill-1", "POD_NAMESPACE": "kube-flannel",
            "EVENT_QUEUE_DEPTH": "5000",
            "KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443", "HOME": "/root",
        ])
        #expect(options.nodeName == "by-flag" && options.podName == "twill-1")
        #expect(options.podNamespace == "kube-flannel")
        #expect(options.serviceHost == "fd00::1" && options.servicePort == "443")
        #expect(options.remarks.count == 1 && options.remarks[0].hasPrefix("EVENT_QUEUE_DEPTH"))
        options.take(environment: ["NODE_NAME": "n1"])
        #expect(options.nodeName == "by-flag")
    }
}
