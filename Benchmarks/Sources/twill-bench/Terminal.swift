import Foundation

/// The terminal that standard output goes to.
enum Terminal {
    private static let usualWidth = 80

    /// Columns: the terminal's, or what COLUMNS says, or 80.
    static var width: Int {
        var size = winsize()
        if isatty(STDOUT_FILENO) == 1, ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 {
            return Int(size.ws_col)
        }
        let columns = ProcessInfo.processInfo.environment["COLUMNS"].flatMap { Int($0) }
        return columns.flatMap { $0 > 0 ? $0 : nil } ?? usualWidth
    }

    /// Whether colours are shown: on a terminal, unless NO_COLOR says otherwise (no-color.org).
    static var isColoured: Bool {
        isatty(STDOUT_FILENO) == 1 && (ProcessInfo.processInfo.environment["NO_COLOR"] ?? "").isEmpty
    }

    /// The escape sequences that begin a line's colour, by what the line begins with: warnings, what a comparison found, what
    /// it all comes to.
    private static let colours = [
        ("! ", "\u{1B}[33m"), ("WORSE ", "\u{1B}[31m"), ("better ", "\u{1B}[32m"), ("In short", "\u{1B}[1m"),
        ("Nothing got better or worse", "\u{1B}[1m"),
    ]

    /// A report with colours: a line in that of its first word, and those that it was folded into.
    static func coloured(_ text: String) -> String {
        var colour: String?
        return text.split(separator: "\n", omittingEmptySubsequences: false).map { line in
            if !line.hasPrefix("  ") { colour = colours.first { line.hasPrefix($0.0) }?.1 }
            return colour.map { line.isEmpty ? "" : "\($0)\(line)\u{1B}[0m" } ?? String(line)
        }.joined(separator: "\n")
    }

    /// Lines of at most `width` characters, broken between words; those behind the first begin with `indent` blanks.
    static func fold(_ text: String, width: Int, indent: Int) -> [String] {
        var lines: [String] = []
        var line = ""
        for word in text.split(separator: " ") {
            if !line.isEmpty, line.count + 1 + word.count > width {
                lines.append(line)
                line = String(repeating: " ", count: indent) + word
            } else {
                line += line.isEmpty ? String(word) : " \(word)"
            }
        }
        return lines + (line.isEmpty ? [] : [line])
    }
}

/// A table that is broken into several below one another where it is wider than the terminal. The first column stands
/// in each of them.
struct FoldedTable {
    /// Of each column, in two lines: what it is, and its unit.
    let headings: [[String]]
    /// Whether a column begins at its left, as words do, and not at its right, as figures do.
    let isText: [Bool]
    let rows: [[String]]

    private static let gap = "  "

    func text(width: Int) -> String {
        let widths = headings.indices.map { column in
            (headings[column].map(\.count) + rows.map { $0[column].count }).max() ?? 0
        }
        var parts: [[Int]] = [[0]]
        var used = widths[0]
        for column in headings.indices.dropFirst() {
            let needed = Self.gap.count + widths[column]
            if used + needed > width, parts[parts.count - 1].count > 1 {
                parts.append([0])
                used = widths[0]
            }
            parts[parts.count - 1].append(column)
            used += needed
        }
        return parts.map { columns in
            let heads = (0..<2).map { line in self.line(columns, widths) { headings[$0][line] } }
                .filter { !$0.isEmpty }
            let rule = line(columns, widths) { String(repeating: "-", count: widths[$0]) }
            return (heads + [rule] + rows.map { row in line(columns, widths) { row[$0] } }).joined(
                separator: "\n")
        }.joined(separator: "\n\n")
    }

    /// Cells beside one another, without blanks at the end.
    private func line(_ columns: [Int], _ widths: [Int], _ cell: (Int) -> String) -> String {
        let cells = columns.map { column in
            let blanks = String(repeating: " ", count: widths[column] - cell(column).count)
            return isText[column] ? cell(column) + blanks : blanks + cell(column)
        }
        var line = cells.joined(separator: Self.gap)
        while line.hasSuffix(" ") { line.removeLast() }
        return line
    }
}
