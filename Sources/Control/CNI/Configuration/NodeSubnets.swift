import Addresses
import Host

/// What `subnet.env` says, as the plugin needs it: all of it good, or nothing. The daemon's own reader,
/// `SubnetFileValues`, takes what is good of it.
package struct NodeSubnets: Sendable, Equatable {
    /// `FLANNEL_NETWORK` and then `FLANNEL_IPV6_NETWORK`: the overlay, which may be several networks; none twice.
    package let networks: [IPPrefix]
    /// `FLANNEL_SUBNET` and `FLANNEL_IPV6_SUBNET`: this node's, one or both of them, IPv4 first.
    package let subnets: [IPPrefix]
    /// `FLANNEL_MTU`, in bytes.
    package let mtu: UInt32
    /// `FLANNEL_IPMASQ`: whether the daemon masquerades, so that the bridge need not.
    package let masquerades: Bool

    /// Reads a file.
    ///
    /// - Throws: code 11, or `code`: nothing of what was asked is wrong, and the daemon will write the file.
    package init(path: String, failingWith code: CNIError.Code = .tryAgain) throws(CNIError) {
        let remedy = "check the twill pod of this node"
        let text: String?
        do { text = try TextFile.read(path) } catch {
            throw CNIError(code, "\(error)", details: remedy)
        }
        guard let text else {
            throw CNIError(
                code, "\(path) is not there: this node has no subnet yet", details: remedy)
        }
        do {
            try self.init(text: text)
        } catch {
            throw CNIError(code, "\(path): \(error)", details: remedy)
        }
    }

    /// What is wrong with a text.
    package struct Fault: Error, CustomStringConvertible {
        package let description: String
    }

    /// Reads a text.
    ///
    /// - Throws: `Fault`, where it names no subnet or no network, or one that is none.
    package init(text: String) throws(Fault) {
        let values = Assignments(text: text)
        var networks: [IPPrefix] = []
        for key in ["FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK"] {
            for word in (values[key] ?? "").split(separator: ",") {
                let network = try Self.prefix(word, of: key)
                if !networks.contains(network) { networks.append(network) }
            }
        }
        var subnets: [IPPrefix] = []
        for key in ["FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"] {
            guard let word = values[key], !word.isEmpty else { continue }
            subnets.append(try Self.prefix(word[...], of: key))
        }
        var missing: [String] = []
        if networks.isEmpty { missing.append("FLANNEL_NETWORK") }
        if subnets.isEmpty { missing.append("FLANNEL_SUBNET") }
        for key in ["FLANNEL_MTU", "FLANNEL_IPMASQ"] where values[key] == nil { missing.append(key) }
        guard missing.isEmpty else { throw Fault(description: "\(missing.joined(separator: ", ")) missing") }
        guard let mtu = values["FLANNEL_MTU"].flatMap({ UInt32($0) }) else {
            throw Fault(description: "FLANNEL_MTU is \(values["FLANNEL_MTU"] ?? ""), which is no MTU")
        }
        self.networks = networks
        self.subnets = subnets
        self.mtu = mtu
        masquerades = values["FLANNEL_IPMASQ"] == "true"
    }

    /// Whether a text is a prefix of either family.
    static func isPrefix(_ text: String) -> Bool { IPv4Prefix(text) != nil || IPv6Prefix(text) != nil }

    private static func prefix(_ word: Substring, of key: String) throws(Fault) -> IPPrefix {
        let text = word.trimmingSpaces
        if let prefix = IPv4Prefix(text) { return .v4(prefix) }
        if let prefix = IPv6Prefix(text) { return .v6(prefix) }
        throw Fault(description: "\(key) has \(text), which is no prefix")
    }
}
