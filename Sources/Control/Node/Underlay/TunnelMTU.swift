import Addresses

/// The tunnel's MTU: what the underlay's leaves for an inner packet.
public enum TunnelMTU {
    /// The least that is accepted, in bytes: the datagram that every IPv4 host must take (RFC 791, section 3.1).
    /// The kernel itself does not believe a path to be narrower than 552 (`net.ipv4.route.min_pmtu`), so that with
    /// less TCP between pods would stall instead of shrinking.
    public static let minimum = 576

    /// The least that IPv6 accepts of a link, in bytes (RFC 8200, section 5): the kernel takes IPv6 away from a device
    /// with less.
    public static let minimumIPv6 = 1280

    /// The least that inner packets of a family ask for.
    static func least(for family: AddressFamily) -> Int { family == .ipv4 ? minimum : minimumIPv6 }

    /// The largest outer packet, in bytes: what the 16 bits of IPv4's length hold (RFC 791, section 3.1).
    private static let largestOuter = 65_535

    /// The MTU for a tunnel, in bytes.
    ///
    /// - Parameters:
    ///   - underlayMTU: the underlay's MTU in bytes.
    ///   - overhead: the bytes that the backend's outer headers take.
    ///   - configured: `--mtu` or the config's `Backend.MTU`, in bytes; nil takes all that fits.
    ///   - carriesIPv6: whether inner packets may be of IPv6.
    /// - Throws: where it does not fit, or is below what the inner packets' family accepts.
    public static func choose(
        underlayMTU: Int, overhead: Int, configured: Int?, carriesIPv6: Bool = false
    ) throws(TunnelMTUError) -> Int {
        let fitting = min(underlayMTU, largestOuter) - overhead
        if let configured, configured > fitting {
            throw TunnelMTUError(
                description: """
                    an MTU of \(configured) bytes does not fit: the underlay's is \(underlayMTU), the tunnel's headers \
                    take \(overhead); set it to \(fitting) at most, or leave it out
                    """)
        }
        let mtu = configured ?? fitting
        let minimum = least(for: carriesIPv6 ? .ipv6 : .ipv4)
        guard mtu >= minimum else {
            let remedy =
                configured == nil ? "the underlay's MTU from \(underlayMTU) to \(minimum + overhead)" : "it"
            throw TunnelMTUError(
                description:
                    "an MTU of \(mtu) bytes is too small: \(carriesIPv6 ? "IPv6" : "IPv4") asks for \(minimum); raise \(remedy)"
            )
        }
        return mtu
    }
}

/// An MTU that cannot be used; the description says why and what to do.
public struct TunnelMTUError: Error, Hashable, CustomStringConvertible {
    /// The message to the operator.
    public let description: String
}
