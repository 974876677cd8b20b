package import Addresses

/// What an operator asks of this node's addresses, in annotations of its Node object.
package struct NodeAddressRequests: Sendable, Hashable {
    /// `node-public-ip`: counts as `--public-ip`, and so chooses the interface; nil where there is none.
    package var nodePublicIP: IPv4Address?
    /// `public-ip-overwrite`: what is announced instead of the node's own address, which need not be on an interface;
    /// nil where there is none. `KubernetesCluster` announces it by itself.
    package var publicIPOverwrite: IPv4Address?

    /// `node-public-ipv6`: counts as `--public-ipv6`; nil where there is none.
    package var nodePublicIPv6: IPv6Address?
    /// `public-ipv6-overwrite`: the same as `public-ip-overwrite` for IPv6; nil where there is none.
    package var publicIPv6Overwrite: IPv6Address?

    /// Makes requests.
    package init(
        nodePublicIP: IPv4Address? = nil, publicIPOverwrite: IPv4Address? = nil,
        nodePublicIPv6: IPv6Address? = nil, publicIPv6Overwrite: IPv6Address? = nil
    ) {
        self.nodePublicIP = nodePublicIP
        self.publicIPOverwrite = publicIPOverwrite
        self.nodePublicIPv6 = nodePublicIPv6
        self.publicIPv6Overwrite = publicIPv6Overwrite
    }
}
