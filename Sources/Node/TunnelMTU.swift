/// The tunnel's MTU: what is left of the underlay's for an inner packet.
public enum TunnelMTU {
    /// The outer headers in bytes: IPv4 without options (20, RFC 791) and UDP (8, RFC 768).
    public static let overhead = 28

    /// The MTU in bytes for the tunnel over an underlay of `underlayMTU` bytes; `configured` is `--mtu` or the
    /// config's `Backend.MTU`. Throws where it would not fit the underlay or is too small for IPv4.
    public static func choose(underlayMTU: Int, configured: Int?) throws(TunnelMTUError) -> Int {
        fatalError("skeleton")
    }
}

/// An MTU that cannot be used; the description says why and what to do.
public struct TunnelMTUError: Error, CustomStringConvertible {
    /// The message to the operator.
    public let description: String
}
