import Addresses

/// What `subnet.env` holds: how Docker and the CNI plugin learn of this node's subnet.
public struct SubnetFile: Sendable, Hashable {
    /// `FLANNEL_NETWORK`: the overlay.
    public var network: IPv4Prefix
    /// `FLANNEL_SUBNET`: this node's subnet; the file has its first host address, the bridge's.
    public var subnet: IPv4Prefix
    /// `FLANNEL_MTU`: bytes.
    public var mtu: Int
    /// `FLANNEL_IPMASQ`: whether the daemon masquerades (so that Docker does not).
    public var masquerades: Bool

    /// Makes the contents of a file.
    public init(network: IPv4Prefix, subnet: IPv4Prefix, mtu: Int, masquerades: Bool) {
        self.network = network
        self.subnet = subnet
        self.mtu = mtu
        self.masquerades = masquerades
    }

    /// The file's text, in flannel's order.
    public var text: String { fatalError("skeleton") }

    /// Parses a file's text; nil where the network or the subnet is missing or bad. Other keys are passed over.
    public init?(text: String) { fatalError("skeleton") }

    /// Reads the file; nil where there is none or it does not parse.
    public init?(path: String) { fatalError("skeleton") }

    /// Writes the file atomically with mode 0644, and makes its directory.
    public func write(to path: String) throws(SubnetFileError) { fatalError("skeleton") }

    /// Docker's options: `--bip=10.66.28.1/24`, `--ip-masq=true`, `--mtu=1472`.
    public var dockerOptions: [String] { fatalError("skeleton") }
}

/// `subnet.env` could not be written; the description says where and why.
public struct SubnetFileError: Error, CustomStringConvertible {
    /// The message to the operator.
    public let description: String
}
