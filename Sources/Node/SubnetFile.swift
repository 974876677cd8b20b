import Addresses
import Glibc

/// What `subnet.env` holds: how Docker and the CNI plugin learn of this node's subnet, and how the daemon knows
/// after a restart which one it had.
public struct SubnetFile: Sendable, Hashable {
    /// Where flanneld writes it.
    public static let defaultPath = "/run/flannel/subnet.env"

    /// `FLANNEL_NETWORK`: the overlay.
    public var network: IPv4Prefix
    /// `FLANNEL_SUBNET`: this node's subnet. The file gives its first host address, the bridge's.
    public var subnet: IPv4Prefix
    /// `FLANNEL_MTU`: bytes.
    public var mtu: Int
    /// `FLANNEL_IPMASQ`: whether the daemon masquerades, so that Docker need not.
    public var masquerades: Bool

    /// Makes the contents of a file.
    public init(network: IPv4Prefix, subnet: IPv4Prefix, mtu: Int, masquerades: Bool) {
        self.network = network
        self.subnet = subnet
        self.mtu = mtu
        self.masquerades = masquerades
    }

    /// The bridge's address: the subnet's first after its network address.
    public var bridgeAddress: IPv4Address { IPv4Address(bits: subnet.address.bits + 1) }

    /// The file's text: flannel's keys in flannel's order.
    public var text: String {
        """
        FLANNEL_NETWORK=\(network)
        FLANNEL_SUBNET=\(bridgeAddress)/\(subnet.length)
        FLANNEL_MTU=\(mtu)
        FLANNEL_IPMASQ=\(masquerades)

        """
    }

    /// Parses a file's text; nil where one of the four keys is missing or bad. Other keys are passed over.
    public init?(text: String) {
        var values: [Substring: Substring] = [:]
        for line in text.split(whereSeparator: \.isNewline) {
            let parts = line.split(separator: "=", maxSplits: 1)
            if parts.count == 2 { values[parts[0]] = parts[1] }
        }
        guard let network = values["FLANNEL_NETWORK"].flatMap({ IPv4Prefix($0) }),
            let subnet = values["FLANNEL_SUBNET"].flatMap({ IPv4Prefix($0) }),
            let mtu = values["FLANNEL_MTU"].flatMap({ Int($0) }),
            let masquerades = values["FLANNEL_IPMASQ"].flatMap({ Bool(String($0)) })
        else { return nil }
        self.init(network: network, subnet: subnet, mtu: mtu, masquerades: masquerades)
    }

    /// Reads a file; nil where there is none. Throws where it cannot be read or does not parse.
    public init?(path: String) throws(SubnetFileError) {
        let text: String?
        do { text = try TextFile.read(path) } catch {
            throw SubnetFileError(description: "cannot read \(error)")
        }
        guard let text else { return nil }
        guard let file = SubnetFile(text: text) else {
            throw SubnetFileError(
                description: "\(path) is no subnet.env: it lacks keys, or one has a bad value")
        }
        self = file
    }

    /// Replaces the file atomically: a reader sees the old one or all of the new one. Mode 0644; its directory is
    /// made where it is missing.
    public func write(to path: String) throws(SubnetFileError) {
        do {
            try TextFile.replace(path, with: text, mode: 0o644)
        } catch {
            throw SubnetFileError(description: "cannot write \(error); --subnet-file names another place")
        }
    }

    /// Docker's options: `--bip=10.66.28.1/24`, `--ip-masq=true`, `--mtu=1472`, as flannel's mk-docker-opts has them.
    /// Docker masquerades where the daemon does not.
    public var dockerOptions: [String] {
        ["--bip=\(bridgeAddress)/\(subnet.length)", "--ip-masq=\(!masquerades)", "--mtu=\(mtu)"]
    }
}

/// `subnet.env` could not be read or written; the description says which and why.
public struct SubnetFileError: Error, Hashable, CustomStringConvertible {
    /// The message to the operator.
    public let description: String
}
