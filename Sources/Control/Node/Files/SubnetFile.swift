import Addresses
import Glibc
import Host

/// What `subnet.env` holds: how Docker and the CNI plugin learn of this node's subnet, and how the daemon knows
/// after a restart which one it had.
public struct SubnetFile: Sendable, Hashable {
    /// Where flanneld writes it.
    public static let defaultPath = "/run/flannel/subnet.env"

    /// What the devices are called, beside their names, that the daemon makes which keeps the file at `path`: two
    /// daemons on one machine have two files, and a daemon has the same one after a restart. The kernel takes up to 255
    /// bytes (`IFALIASZ`).
    public static func deviceAlias(ofDaemonKeeping path: String) -> String {
        "twilld \(String(decoding: path.utf8.suffix(240), as: UTF8.self))"
    }

    /// The IPv6 side, where the network has one (`EnableIPv6`).
    public struct IPv6: Sendable, Hashable {
        /// `FLANNEL_IPV6_NETWORK`: the overlay's.
        public var network: IPv6Prefix
        /// `FLANNEL_IPV6_SUBNET`: this node's. The file gives its first host address, the bridge's.
        public var subnet: IPv6Prefix

        /// Makes the IPv6 side.
        public init(network: IPv6Prefix, subnet: IPv6Prefix) {
            self.network = network
            self.subnet = subnet
        }
    }

    /// The IPv4 side, unless the network has none (`EnableIPv4`).
    public struct IPv4: Sendable, Hashable {
        /// `FLANNEL_NETWORK`: the overlay's.
        public var network: IPv4Prefix
        /// `FLANNEL_SUBNET`: this node's. The file gives its first host address, the bridge's.
        public var subnet: IPv4Prefix

        /// Makes the IPv4 side.
        public init(network: IPv4Prefix, subnet: IPv4Prefix) {
            self.network = network
            self.subnet = subnet
        }
    }

    /// The lines of IPv4; nil for none.
    public var ipv4: IPv4?
    /// The lines of IPv6; nil for none.
    public var ipv6: IPv6?
    /// `FLANNEL_MTU`: bytes.
    public var mtu: Int
    /// `FLANNEL_IPMASQ`: whether the daemon masquerades, so that Docker need not.
    public var masquerades: Bool

    /// Makes the contents of a file.
    public init(ipv4: IPv4?, ipv6: IPv6? = nil, mtu: Int, masquerades: Bool) {
        self.ipv4 = ipv4
        self.ipv6 = ipv6
        self.mtu = mtu
        self.masquerades = masquerades
    }

    /// This node's prefixes, with a comma.
    public var subnetText: String {
        [ipv4.map { "\($0.subnet)" }, ipv6.map { "\($0.subnet)" }].compactMap(\.self).joined(separator: ",")
    }

    /// The file's text: flannel's keys in flannel's order.
    public var text: String {
        var lines: [String] = []
        if let ipv4 {
            lines += [
                "FLANNEL_NETWORK=\(ipv4.network)",
                "FLANNEL_SUBNET=\(ipv4.subnet.bridgeAddress)/\(ipv4.subnet.length)",
            ]
        }
        if let ipv6 {
            let address = IPv6Address(high: ipv6.subnet.address.high, low: ipv6.subnet.address.low | 1)
            lines += [
                "FLANNEL_IPV6_NETWORK=\(ipv6.network)",
                "FLANNEL_IPV6_SUBNET=\(address)/\(ipv6.subnet.length)",
            ]
        }
        lines += ["FLANNEL_MTU=\(mtu)", "FLANNEL_IPMASQ=\(masquerades)"]
        return lines.map { $0 + "\n" }.joined()
    }

    /// Replaces the file atomically: a reader sees the old one or all of the new one. Mode 0644; its directory is
    /// made where it is missing. Blocks until the file is on the disk.
    ///
    /// - Throws: `SubnetFileError` with the reason and what to do about it.
    @available(*, noasync, message: "it blocks: use onThread")
    public func write(to path: String) throws(SubnetFileError) {
        do {
            try TextFile.replace(path, with: text, mode: 0o644)
        } catch {
            throw SubnetFileError(
                cause: "cannot write \(error)", remedy: "; --subnet-file names another place",
                code: error.code)
        }
    }
}

/// What a `subnet.env` of whatever origin says: each value that is there and good. flanneld's own reader takes what
/// is there and passes over the rest, and so does this.
public struct SubnetFileValues: Sendable, Hashable {
    /// `FLANNEL_NETWORK`.
    public var network: IPv4Prefix?
    /// `FLANNEL_SUBNET`: of a list with commas the first that is an IPv4 prefix.
    public var subnet: IPv4Prefix?
    /// `FLANNEL_IPV6_NETWORK`.
    public var ipv6Network: IPv6Prefix?
    /// `FLANNEL_IPV6_SUBNET`: of a list with commas the first that is an IPv6 prefix.
    public var ipv6Subnet: IPv6Prefix?
    /// `FLANNEL_MTU`, in bytes.
    public var mtu: Int?
    /// `FLANNEL_IPMASQ`.
    public var masquerades: Bool?

    /// Parses a file's text as `Assignments` reads it.
    public init(text: String) {
        let values = Assignments(text: text)
        network = values["FLANNEL_NETWORK"].flatMap(SubnetFileValues.prefix)
        subnet = values["FLANNEL_SUBNET"].flatMap(SubnetFileValues.prefix)
        ipv6Network = values["FLANNEL_IPV6_NETWORK"].flatMap(SubnetFileValues.ipv6Prefix)
        ipv6Subnet = values["FLANNEL_IPV6_SUBNET"].flatMap(SubnetFileValues.ipv6Prefix)
        mtu = values["FLANNEL_MTU"].flatMap { Int($0) }
        masquerades = values["FLANNEL_IPMASQ"].flatMap { Bool($0.lowercased()) }
    }

    /// Reads a file; nil where there is none.
    ///
    /// - Throws: where it cannot be read. A file without a single good value is no error.
    @available(*, noasync, message: "it blocks: use onThread")
    public init?(path: String) throws(SubnetFileError) {
        let text: String?
        do { text = try TextFile.read(path) } catch {
            throw SubnetFileError(cause: "cannot read \(error)", remedy: "", code: error.code)
        }
        guard let text else { return nil }
        self.init(text: text)
    }

    private static func prefix(_ text: String) -> IPv4Prefix? {
        text.split(separator: ",").lazy.compactMap { IPv4Prefix($0.trimmingSpaces) }.first
    }

    private static func ipv6Prefix(_ text: String) -> IPv6Prefix? {
        text.split(separator: ",").lazy.compactMap { IPv6Prefix($0.trimmingSpaces) }.first
    }

    /// Where this node's pods are, by each family whose subnet is known; a network that is not is taken to be no larger.
    public var pods: [PodPrefix] {
        let ipv4 = subnet.map { PodPrefix(network: .v4(network ?? $0), subnet: .v4($0)) }
        let ipv6 = ipv6Subnet.map { PodPrefix(network: .v6(ipv6Network ?? $0), subnet: .v6($0)) }
        return [ipv4, ipv6].compactMap(\.self)
    }

    /// The networks of both families.
    public var networks: [IPPrefix] {
        [network.map { .v4($0) }, ipv6Network.map { .v6($0) }].compactMap(\.self)
    }

    /// Docker's options: `--bip=10.66.28.1/24`, `--ip-masq=true`, `--mtu=1472`, as flannel's mk-docker-opts has them:
    /// one for each value that is there. Docker masquerades where the daemon does not.
    public var dockerOptions: [String] { namedDockerOptions.map(\.option) }

    private var namedDockerOptions: [(name: String, option: String)] {
        [
            ("BIP", subnet.map { "--bip=\($0.bridgeAddress)/\($0.length)" }),
            ("IPMASQ", masquerades.map { "--ip-masq=\(!$0)" }), ("MTU", mtu.map { "--mtu=\($0)" }),
        ].compactMap { name, option in option.map { (name, $0) } }
    }

    /// The same as a file for systemd's `EnvironmentFile=`, as flannel's mk-docker-opts writes it.
    ///
    /// - Parameters:
    ///   - key: the variable that has all of them; nil for none.
    ///   - isEachNamed: whether each has a variable of its own, `DOCKER_OPT_BIP`, too.
    ///   - omitsMasquerading: whether `--ip-masq` is left out.
    public func dockerEnvironment(key: String?, isEachNamed: Bool, omitsMasquerading: Bool) -> String {
        let options = namedDockerOptions.filter { !(omitsMasquerading && $0.name == "IPMASQ") }
        let each = isEachNamed ? options.map { "DOCKER_OPT_\($0.name)=\"\($0.option)\"\n" } : []
        let all = key.map { ["\($0)=\" " + options.map { "\($0.option) " }.joined() + "\"\n"] } ?? []
        return (each + all).joined()
    }
}

extension IPv4Prefix {
    /// A node's bridge's address: the first after the subnet's own.
    var bridgeAddress: IPv4Address { IPv4Address(bits: address.bits | 1) }
}

/// `subnet.env` could not be read or written; the description says which and why.
public struct SubnetFileError: Error, Hashable, CustomStringConvertible {
    /// What failed, and why.
    let cause: String
    let remedy: String
    /// The kernel's error number.
    public let code: Int32
    /// The message to the operator.
    public var description: String { cause + remedy }

    /// Whether trying again is in vain as long as nobody changes the command line: there can be no such file.
    public var isHopeless: Bool { [ENOENT, ENOTDIR, ENAMETOOLONG, ELOOP].contains(code) }
}
