/// The tunnel's MTU: what the underlay's leaves for an inner packet.
public enum TunnelMTU {
    /// The outer headers in bytes: IPv4 without options (20, RFC 791) and UDP (8, RFC 768).
    public static let overhead = 28

    /// The least that is accepted, in bytes: the datagram that every IPv4 host must take (RFC 791, section 3.1).
    /// The kernel itself does not believe a path to be narrower than 552 (`net.ipv4.route.min_pmtu`), so that with
    /// less TCP between pods would stall instead of shrinking.
    public static let minimum = 576

    /// The largest IPv4 packet that a UDP datagram over IPv4 holds, in bytes: 65,535 − 28.
    public static let maximum = 65_535 - overhead

    /// The MTU in bytes for a tunnel over an underlay of `underlayMTU` bytes. `configured` is `--mtu` or the
    /// config's `Backend.MTU`; nil takes all that fits. Throws where it does not fit, or is below `minimum`.
    public static func choose(underlayMTU: Int, configured: Int?) throws(TunnelMTUError) -> Int {
        let fitting = min(underlayMTU - overhead, maximum)
        if let configured, configured > fitting {
            throw TunnelMTUError(
                description: """
                    an MTU of \(configured) bytes does not fit: the underlay's is \(underlayMTU), the tunnel's headers \
                    take \(overhead); set it to \(fitting) at most, or leave it out
                    """)
        }
        let mtu = configured ?? fitting
        guard mtu >= minimum else {
            let remedy =
                configured == nil ? "the underlay's MTU from \(underlayMTU) to \(minimum + overhead)" : "it"
            throw TunnelMTUError(
                description: "an MTU of \(mtu) bytes is too small: IPv4 asks for \(minimum); raise \(remedy)")
        }
        return mtu
    }
}

/// An MTU that cannot be used; the description says why and what to do.
public struct TunnelMTUError: Error, Hashable, CustomStringConvertible {
    /// The message to the operator.
    public let description: String
}
