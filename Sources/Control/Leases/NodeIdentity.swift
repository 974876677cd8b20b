/// Tells a node from another one that announces the same address: 32 random bits, made once and kept with the
/// node's state.
///
/// A store keeps the holder's identity beside a lease, never in its value, which stays what flannel writes:
/// docs/adr/0020.
public struct NodeIdentity: Sendable, Hashable {
    /// The bits, of no meaning.
    public let number: UInt32

    /// Makes an identity from its bits.
    public init(number: UInt32) { self.number = number }

    /// Parses the eight hexadecimal digits that `description` writes, blanks around them left aside.
    public init?(_ text: some StringProtocol) {
        let digits = String(text.filter { !$0.isWhitespace })
        guard digits.utf8.count == 8, let number = UInt32(digits, radix: 16) else { return nil }
        self.number = number
    }

    /// A new identity.
    public static func random() -> NodeIdentity { NodeIdentity(number: .random(in: 1...UInt32.max)) }
}

extension NodeIdentity: CustomStringConvertible {
    /// Eight hexadecimal digits.
    public var description: String {
        let digits = String(number, radix: 16)
        return String(repeating: "0", count: max(0, 8 &- digits.count)) + digits
    }
}
