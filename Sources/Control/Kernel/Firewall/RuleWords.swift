/// Cuts a rule into words: at spaces, but for those in quotes; without the quotes and without commas at the ends.
struct RuleWords {
    private var words: ArraySlice<Substring>

    init(_ rule: Substring) {
        var words: [Substring] = []
        let bytes = rule.utf8
        var index = bytes.startIndex
        while index < bytes.endIndex {
            if bytes[index] == UInt8(ascii: " ") {
                index = bytes.index(after: index)
                continue
            }
            let isQuoted = bytes[index] == UInt8(ascii: "\"")
            let start = isQuoted ? bytes.index(after: index) : index
            let stop = UInt8(ascii: isQuoted ? "\"" : " ")
            var end = start
            while end < bytes.endIndex, bytes[end] != stop {
                // iptables-save escapes quotes inside of quotes.
                if isQuoted, bytes[end] == UInt8(ascii: "\\"), bytes.index(after: end) < bytes.endIndex {
                    end = bytes.index(after: end)
                }
                end = bytes.index(after: end)
            }
            // checked: the end begins at the start and only goes forward
            var word = rule[start..<min(end, bytes.endIndex)]
            index = end < bytes.endIndex ? bytes.index(after: end) : end
            if isQuoted, index < bytes.endIndex, bytes[index] == UInt8(ascii: ",") {
                index = bytes.index(after: index)
            }
            if !isQuoted, word.count > 1, word.hasSuffix(",") { word = word.dropLast() }
            if word != "," { words.append(word) }
        }
        self.words = words[...]
    }

    /// The next word, which stays the next.
    var peek: Substring? { words.first }

    /// The next word.
    mutating func take() -> Substring? { words.popFirst() }

    /// Passes over words.
    mutating func skip(_ count: Int) { words = words.dropFirst(count) }

    /// Passes over all that is left.
    mutating func skipAll() { words = [] }

    /// Takes the next word where it is this one.
    mutating func take(_ word: String) -> Bool {
        guard let peek, peek == word else { return false }
        skip(1)
        return true
    }
}
