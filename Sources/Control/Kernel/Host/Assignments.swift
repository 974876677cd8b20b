/// What a text of `KEY=value` lines assigns, read as a shell and Go's dotenv reader would: with `export`, spaces,
/// single or double quotes, comments and either sort of line end. Of two lines with one key the later counts; lines
/// that are none are passed over.
package struct Assignments: Sendable {
    private var values: [String: String] = [:]

    /// Reads a text.
    package init(text: String) {
        for line in text.split(whereSeparator: \.isNewline) {
            if let (key, value) = Assignments.assignment(line) { values[key] = value }
        }
    }

    /// What the key stands for; nil where no line has it.
    package subscript(key: String) -> String? { values[key] }

    private static func assignment(_ line: Substring) -> (key: String, value: String)? {
        var text = line.trimmingSpaces
        if text.unicodeScalars.first == "\u{FEFF}" { text = text.dropFirst() }
        if text.hasPrefix("export "), let rest = text.firstIndex(of: " ") {
            text = text[rest...].trimmingSpaces
        }
        guard !text.hasPrefix("#"), let equals = text.firstIndex(of: "=") else { return nil }
        let key = text[..<equals].trimmingSpaces
        let value = text[text.index(after: equals)...].trimmingSpaces
        if let quote = value.first, quote == "\"" || quote == "'" {
            let quoted = value.dropFirst()
            guard let end = quoted.firstIndex(of: quote) else { return nil }
            return (String(key), String(quoted[..<end].trimmingSpaces))
        }
        return (String(key), String(value.prefix { $0 != "#" }.trimmingSpaces))
    }
}

extension Substring {
    /// Without white space at its ends.
    package var trimmingSpaces: Substring {
        let rest = drop { $0.isWhitespace }
        guard let last = rest.lastIndex(where: { !$0.isWhitespace }) else { return rest.prefix(0) }
        return rest[...last]
    }
}
