import ArgumentParser
import FoundationEssentials
import KubernetesNodes
import Leases
import Node
import NodeDaemon

/// Whether the nodes of a Kubernetes cluster are the network, in the place of a store of leases.
struct KubernetesModeFlag: FlagGroup {
    static let flags = [GoFlag("kube-subnet-mgr", .boolean)]

    @Option(
        help: ArgumentHelp(
            "The network is a Kubernetes cluster's nodes, and this node's subnet its podCIDR.",
            valueName: "bool"))
    var kubeSubnetMgr = false

    /// Whether it is given, or the program runs in a pod, where nobody gives it to every command.
    var isGivenOrInPod: Bool {
        kubeSubnetMgr || ProcessInfo.processInfo.environment["KUBERNETES_SERVICE_HOST"] != nil
    }
}

/// How the cluster is reached and what this node writes to it; read with `--kube-subnet-mgr` alone.
struct KubernetesFlags: FlagGroup {
    static let flags: [GoFlag] =
        KubernetesModeFlag.flags + [
            GoFlag("node-name"), GoFlag("kube-api-url"), GoFlag("kubeconfig-file"),
            GoFlag("kube-annotation-prefix"), GoFlag("net-config-path"),
            GoFlag("set-node-network-unavailable", .boolean), GoFlag("cni-conf-source"),
            GoFlag("cni-conf-dir"),
        ]

    @OptionGroup var mode: KubernetesModeFlag

    @Option(
        help: ArgumentHelp(
            "This node's name in the cluster; without it, NODE_NAME of the environment, else the node of the pod "
                + "POD_NAME in POD_NAMESPACE.", valueName: "name"))
    var nodeName: String?

    @Option(
        help: ArgumentHelp(
            "Address of the API server, where a pod's own is not to be reached yet; token and authority stay.",
            valueName: "url"))
    var kubeApiUrl: String?

    @Option(
        help: ArgumentHelp("How to reach the API server from outside of a pod.", valueName: "file"),
        completion: .file())
    var kubeconfigFile: String?

    @Option(help: ArgumentHelp("What the annotations' names begin with.", valueName: "prefix"))
    var kubeAnnotationPrefix = KubernetesOptions().annotationPrefix

    @Option(
        help: ArgumentHelp("File with the network config; followed.", valueName: "file"), completion: .file())
    var netConfigPath = KubernetesOptions().networkConfigurationPath

    @Option(
        help: ArgumentHelp(
            "Set the node's condition NetworkUnavailable to false once its network stands.", valueName: "bool"
        ))
    var setNodeNetworkUnavailable = true

    @Option(
        help: ArgumentHelp(
            "File with the CNI list for the container runtime; followed. Without it, cni-conf.json beside "
                + "--net-config-path, else a list of twill's own.", valueName: "file"), completion: .file())
    var cniConfSource: String?

    @Option(
        help: ArgumentHelp(
            "Directory in which the container runtime looks for CNI lists; none: write none. Without it, "
                + "\(ContainerNetworkList.defaultDirectory) with --kube-subnet-mgr, else none.",
            valueName: "directory"), completion: .directory)
    var cniConfDir: String?

    /// What `--cni-conf-dir` says where no list is to be written.
    private static let noDirectory = "none"

    /// The cluster for the daemon; nil without `--kube-subnet-mgr`.
    ///
    /// - Parameter environment: of the process.
    func options(lease: NodeOptions.Lease, environment: [String: String]) -> KubernetesOptions? {
        guard mode.kubeSubnetMgr else { return nil }
        var options = KubernetesOptions()
        options.take(environment: environment)
        if let nodeName { options.nodeName = nodeName }
        options.apiURL = kubeApiUrl
        options.kubeconfigFile = kubeconfigFile
        options.annotationPrefix = kubeAnnotationPrefix
        options.networkConfigurationPath = netConfigPath
        options.setsNodeNetworkUnavailable = setNodeNetworkUnavailable
        options.stateDirectory = lease.stateDirectory
        options.lossPolicy = lease.lossPolicy
        return options
    }

    /// The CNI list for the daemon; nil where it writes none.
    var containerNetwork: ContainerNetworkOptions? {
        guard
            let directory = cniConfDir ?? (mode.kubeSubnetMgr ? ContainerNetworkList.defaultDirectory : nil),
            directory != Self.noDirectory
        else { return nil }
        let beside = netConfigPath.lastIndex(of: "/").map { netConfigPath[...$0] } ?? ""
        return ContainerNetworkOptions(
            source: cniConfSource ?? "\(beside)cni-conf.json", directory: directory)
    }
}
