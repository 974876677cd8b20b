package import Addresses

/// What an operator asks of this node's addresses, in annotations of its Node object.
package struct NodeAddressRequests: Sendable, Hashable {
    /// `node-public-ip`: counts as `--public-ip`, and so chooses the interface; nil where there is none.
    package var nodePublicIP: IPv4Address?
    /// `public-ip-overwrite`: what is announced instead of the node's own address, which need not be on an interface;
    /// nil where there is none. `KubernetesCluster` announces it by itself.
    package var publicIPOverwrite: IPv4Address?

    /// Makes requests.
    package init(nodePublicIP: IPv4Address? = nil, publicIPOverwrite: IPv4Address? = nil) {
        self.nodePublicIP = nodePublicIP
        self.publicIPOverwrite = publicIPOverwrite
    }
}
