/// Which packets of an interface a program sees.
public enum PacketDirection: Sendable, Hashable, CaseIterable {
    /// Those that come in by it.
    case ingress
    /// Those that leave by it.
    case egress
}
