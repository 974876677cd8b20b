/// What the rules of one tunnel device are called. Those of `flannel0` have flannel's names, where monitors look for
/// them; those of another device carry its name, so that two networks on one machine do not take each other's away.
struct PacketFilterNames: Sendable, Hashable {
    /// The device's name.
    let interfaceName: String

    /// The longest name of an iptables chain in bytes: XT_EXTENSION_MAXNAMELEN of linux/netfilter/x_tables.h, less
    /// its zero. A device's name has 15 at most (IFNAMSIZ), and the longest prefix below has 13.
    static let chainNameLimit = 28

    private var isFlannels: Bool { interfaceName == "flannel0" }

    /// The chain of table nat that masquerades.
    var postroutingChain: String { isFlannels ? "FLANNEL-POSTRTG" : "FLANNEL-PRTG-\(suffix)" }

    /// The chain of table filter that accepts.
    var forwardChain: String { isFlannels ? "FLANNEL-FWD" : "FLANNEL-FWD-\(suffix)" }

    /// The nftables table.
    var table: String { isFlannels ? "ip flannel-ipv4" : "ip flannel-ipv4-\(suffix)" }

    /// The same of IPv6, which flanneld makes.
    var tableIPv6: String { isFlannels ? "ip6 flannel-ipv6" : "ip6 flannel-ipv6-\(suffix)" }

    /// The device's name where both programs take it as it is; else a number made from it (FNV-1a), since a device
    /// may be called nearly anything.
    private var suffix: String {
        let bytes = interfaceName.utf8
        let isPlain = bytes.allSatisfy {
            (0x30...0x39).contains($0) || (0x41...0x5A).contains($0) || (0x61...0x7A).contains($0)
                || $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: "_") || $0 == UInt8(ascii: ".")
        }
        if isPlain { return interfaceName }
        let hash = bytes.reduce(UInt32(0x811C_9DC5)) { ($0 ^ UInt32($1)) &* 0x0100_0193 }
        return "0x" + String(hash, radix: 16)
    }
}
