/// What is wrong with a component, in words for an operator who was woken by it.
public struct Problem: Sendable, Hashable {
    /// What it does to pods.
    public enum Effect: String, Sendable, Codable, Comparable {
        /// Packets flow, but less well, for some peers only, or not for much longer. The node stays ready.
        case degraded
        /// This node's pods are cut off from the other nodes'. The node is not ready.
        case cutOff = "cut-off"

        /// By how bad it is.
        public static func < (left: Effect, right: Effect) -> Bool { left == .degraded && right == .cutOff }
    }

    /// What it does to pods.
    public var effect: Effect
    /// What happened and to what, with its name; a clause without a full stop.
    public var cause: String
    /// What to do about it; an order, without a full stop.
    public var remedy: String

    /// Makes a problem. What comes from outside (a store's bytes, a file's) is made printable here, so that it cannot
    /// reach a terminal as an escape sequence.
    public init(_ effect: Effect, _ cause: String, remedy: String) {
        self.effect = effect
        self.cause = cause.printable
        self.remedy = remedy.printable
    }

    /// Both, as one sentence.
    public var sentence: String { remedy.isEmpty ? cause : "\(cause); \(remedy)" }
}

extension String {
    /// The text with control characters, among them the ends of lines, and characters that turn the direction of
    /// writing as `\u{1b}`; nothing in it then steers a terminal, ends a line or begins a field.
    public var printable: String {
        if unicodeScalars.allSatisfy({ !$0.steersTerminals }) { return self }
        var result = ""
        for scalar in unicodeScalars {
            if scalar.steersTerminals {
                result += "\\u{\(String(scalar.value, radix: 16))}"
            } else {
                result.unicodeScalars.append(scalar)
            }
        }
        return result
    }
}

extension Unicode.Scalar {
    /// Whether it is a control character, ends a line, or turns the direction of writing.
    package var steersTerminals: Bool {
        switch properties.generalCategory {
        case .control, .format, .lineSeparator, .paragraphSeparator: true
        default: false
        }
    }
}
