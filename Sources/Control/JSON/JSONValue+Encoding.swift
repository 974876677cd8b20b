extension JSONValue {
    /// The value as Go's `encoding/json` writes one that it read into a map: no blanks, keys sorted by their bytes,
    /// of two members with one key the last, `<`, `>` and `&` escaped, numbers as Go's `float64`, but whole ones of
    /// 64 bits exact.
    package var encoded: String {
        var text = ""
        write(to: &text)
        return text
    }

    /// The value of an object's member of exactly that key, null too; of several the last, as in a map of Go's.
    package func member(_ key: String) -> JSONValue? {
        guard case .object(let members) = self else { return nil }
        return members.last { $0.key == key }?.value
    }

    /// The object with `value` as its only member of that key. What is no object becomes one.
    package func setting(_ key: String, to value: JSONValue) -> JSONValue {
        var members: [Member] = []
        if case .object(let own) = self { members = own.filter { $0.key != key } }
        members.append(Member(key: key, value: value, offset: 0))
        return .object(members)
    }

    private func write(to text: inout String) {
        switch self {
        case .null: text += "null"
        case .bool(let value): text += value ? "true" : "false"
        case .integer(let value): text += "\(value)"
        case .number(let value): text += Self.text(of: value)
        case .string(let value): Self.write(value, to: &text)
        case .array(let elements):
            text += "["
            var separator = ""
            for element in elements {
                text += separator
                element.write(to: &text)
                separator = ","
            }
            text += "]"
        case .object(let members):
            var last: [String: JSONValue] = [:]
            for member in members { last[member.key] = member.value }
            text += "{"
            var separator = ""
            for (key, value) in last.sorted(by: { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) }) {
                text += separator
                Self.write(key, to: &text)
                text += ":"
                value.write(to: &text)
                separator = ","
            }
            text += "}"
        }
    }

    private static func write(_ string: String, to text: inout String) {
        text += "\""
        for scalar in string.unicodeScalars {
            switch scalar {
            case "\"": text += "\\\""
            case "\\": text += "\\\\"
            case "\n": text += "\\n"
            case "\r": text += "\\r"
            case "\t": text += "\\t"
            case "\u{8}": text += "\\b"
            case "\u{C}": text += "\\f"
            case "\0"..<" ", "<", ">", "&", "\u{2028}", "\u{2029}":
                let digits = String(scalar.value, radix: 16)
                text += "\\u" + String(repeating: "0", count: max(0, 4 &- digits.utf8.count)) + digits
            default: text.unicodeScalars.append(scalar)
            }
        }
        text += "\""
    }

    /// The shortest digits that read as the same number; with an exponent where it is below 1e-6, or 1e21 and more.
    /// What no `Double` holds is written as what was one too large.
    private static func text(of number: Double) -> String {
        guard number.isFinite else { return number < 0 ? "-1e999" : "1e999" }
        guard number != 0 else { return "0" }
        // Swift writes the same digits, with another place of the point: "1e-05", "12345.0", "1.5e+20".
        let parts = "\(number.magnitude)".split(separator: "e", maxSplits: 1)
        let mantissa = (parts.first ?? "").split(separator: ".", omittingEmptySubsequences: false)
        let whole = mantissa.first ?? ""
        let fraction = mantissa.dropFirst().first ?? ""
        var digits = (whole + fraction).drop { $0 == "0" }
        let leadingZeros = whole.utf8.count &+ fraction.utf8.count &- digits.utf8.count
        while digits.last == "0" { digits = digits.dropLast() }
        // The first digit's power of ten.
        let written = parts.dropFirst().first.flatMap { Int($0) } ?? 0
        let power = whole.utf8.count &- 1 &- leadingZeros &+ written
        let sign = number < 0 ? "-" : ""
        let count = digits.utf8.count
        func zeros(_ count: Int) -> String { String(repeating: "0", count: max(0, count)) }
        if number.magnitude < 1e-6 || number.magnitude >= 1e21 {
            let rest = digits.dropFirst()
            return sign + digits.prefix(1) + (rest.isEmpty ? "" : "." + rest)
                + (power < 0 ? "e-" : "e+") + "\(power.magnitude)"
        }
        if power < 0 { return sign + "0." + zeros(-1 &- power) + digits }
        if count <= power { return sign + digits + zeros(power &+ 1 &- count) }
        let rest = digits.dropFirst(power &+ 1)
        return sign + digits.prefix(power &+ 1) + (rest.isEmpty ? "" : "." + rest)
    }
}
