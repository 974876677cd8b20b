package import Leases

/// How a node is one of a Kubernetes cluster: what flanneld's flags and the pod's environment say.
package struct KubernetesOptions: Sendable, Equatable {
    /// The API server's URL (`--kube-api-url`), which stands in for the pod's or the kubeconfig's; their credentials
    /// are used with it.
    package var apiURL: String?
    /// The kubeconfig that says how to reach the API server (`--kubeconfig-file`); nil: as a pod does.
    package var kubeconfigFile: String?
    /// What the annotations' names begin with (`--kube-annotation-prefix`), by flannel's rule for the slash.
    package var annotationPrefix = "flannel.alpha.coreos.com"
    /// The file with the network's configuration (`--net-config-path`), which is read again when it changes.
    package var networkConfigurationPath = "/etc/kube-flannel/net-conf.json"
    /// Whether the node's condition `NetworkUnavailable` is set to false once its network stands
    /// (`--set-node-network-unavailable`).
    package var setsNodeNetworkUnavailable = true
    /// The node's name (`NODE_NAME`, `--node-name`).
    package var nodeName: String?
    /// The name of the daemon's pod (`POD_NAME`), which says the node's name where `nodeName` is nil.
    package var podName: String?
    /// The namespace of the daemon's pod (`POD_NAMESPACE`).
    package var podNamespace: String?
    /// Where a pod's credentials are mounted: `token` and `ca.crt`.
    package var serviceAccountDirectory = "/var/run/secrets/kubernetes.io/serviceaccount"
    /// The API server's address for pods (`KUBERNETES_SERVICE_HOST`).
    package var serviceHost: String?
    /// The API server's port for pods (`KUBERNETES_SERVICE_PORT`).
    package var servicePort: String?
    /// The directory that keeps what was last known of the cluster, for a start without the API server.
    package var stateDirectory = "/var/lib/twill"
    /// What to do when this node's podCIDR becomes another one, which is another Node object of the same name.
    package var lossPolicy = LeaseOptions.LossPolicy.reacquire
    /// What was given and has no effect, one sentence each.
    package private(set) var remarks: [String] = []

    /// Makes flannel's defaults.
    package init() {}

    /// Takes over what the environment of a pod says, where nothing said it before.
    ///
    /// - Parameter environment: of the process. An empty value counts as none.
    package mutating func take(environment: [String: String]) {
        func value(_ name: String) -> String? { environment[name].flatMap { $0.isEmpty ? nil : $0 } }
        nodeName = nodeName ?? value("NODE_NAME")
        podName = podName ?? value("POD_NAME")
        podNamespace = podNamespace ?? value("POD_NAMESPACE")
        serviceHost = serviceHost ?? value("KUBERNETES_SERVICE_HOST")
        servicePort = servicePort ?? value("KUBERNETES_SERVICE_PORT")
        for name in ["EVENT_QUEUE_DEPTH", "CONT_WHEN_CACHE_NOT_READY"] where value(name) != nil {
            remarks.append(
                "\(name) has no effect: twilld has no queue of events, and waits for nobody's cache")
        }
    }
}

/// Options by which no cluster can be reached, whatever happens: the daemon ends with them (exit status 78).
package struct KubernetesOptionsError: Error, Sendable, Hashable, CustomStringConvertible {
    /// One sentence for an operator: what is wrong and what to do.
    package let description: String

    /// Makes an error.
    package init(_ description: String) { self.description = description }
}
