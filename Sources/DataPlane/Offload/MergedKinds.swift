/// What packets a coalescer merges.
public struct MergedKinds: OptionSet, Sendable {
    /// A bit for each `Arrival.Kind`.
    public let rawValue: UInt8
    /// Makes a set from bits.
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// TCP over IPv4.
    public static let tcpOverIPv4 = MergedKinds(rawValue: Arrival.Kind.tcpOverIPv4.bit)
    /// TCP over IPv6.
    public static let tcpOverIPv6 = MergedKinds(rawValue: Arrival.Kind.tcpOverIPv6.bit)
    /// UDP over either, which a TUN device takes together or not at all.
    public static let udp = MergedKinds(
        rawValue: Arrival.Kind.udpOverIPv4.bit | Arrival.Kind.udpOverIPv6.bit)

    /// TCP over either.
    public static let tcp: MergedKinds = [.tcpOverIPv4, .tcpOverIPv6]
    /// All that can be merged.
    public static let all: MergedKinds = [.tcp, .udp]
}
