import Foundation

/// A flame graph: functions stand on those that called them, as wide as they were seen often.
struct FlameGraph {
    private let root: Frame
    private let stacks: [(functions: [String], count: Int)]

    /// - Parameter stacks: functions from the outermost inwards, with how often each stack was seen.
    init(stacks: [(functions: [String], count: Int)]) {
        self.stacks = stacks.sorted {
            $0.functions.joined(separator: ";") < $1.functions.joined(separator: ";")
        }
        var root = Frame(name: "all")
        for (functions, count) in stacks { root.add(functions[...], count) }
        self.root = root
    }

    private struct Frame {
        let name: String
        var count = 0
        var callees: [String: Frame] = [:]

        init(name: String) { self.name = name }

        mutating func add(_ functions: ArraySlice<String>, _ count: Int) {
            self.count += count
            guard let first = functions.first else { return }
            callees[first, default: Frame(name: first)].add(functions.dropFirst(), count)
        }

        var depth: Int { 1 + (callees.values.map(\.depth).max() ?? 0) }
    }

    /// A line a stack, `outer;inner 12`, which other programs draw flame graphs from.
    var folded: String {
        stacks.map { stack in
            stack.functions.map { $0.replacing(";", with: ":") }.joined(separator: ";") + " \(stack.count)\n"
        }.joined()
    }

    private static let width = 1200.0
    private static let rowHeight = 17.0
    private static let headHeight = 34.0
    /// Of what is narrower nothing could be seen.
    private static let leastWidth = 0.4

    /// One file without scripts; a frame's whole name and its share stand in its tooltip.
    func svg(title: String) -> String {
        let height = Double(root.depth) * Self.rowHeight + Self.headHeight
        var marks = ""
        draw(root, x: 0, bottom: height, into: &marks)
        return """
            <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 \(Self.width) \(height)" font-family="monospace" \
            font-size="11"><rect width="100%" height="100%" fill="#fff"/>\
            <text x="6" y="20" font-size="15">\(escape(title)), \(root.count) samples</text>\(marks)</svg>

            """
    }

    private func draw(_ frame: Frame, x: Double, bottom: Double, into marks: inout String) {
        let width = Double(frame.count) / Double(max(root.count, 1)) * Self.width
        guard width >= Self.leastWidth else { return }
        let y = bottom - Self.rowHeight
        // Characters of this font are about 6.7 wide.
        let characters = Int((width - 6) / 6.7)
        let share = 100 * Double(frame.count) / Double(max(root.count, 1))
        marks += "<g><title>\(escape(frame.name)): \(frame.count), \(String(format: "%.1f", share)) %</title>"
        marks +=
            "<rect x=\"\(x.rounded2)\" y=\"\(y.rounded2)\" width=\"\(max(width - 0.5, 0.3).rounded2)\" "
            + "height=\"\(Self.rowHeight - 1)\" fill=\"\(Self.color(frame.name))\"/>"
        if characters > 2 {
            let name =
                frame.name.count > characters ? frame.name.prefix(characters - 1) + "…" : frame.name[...]
            marks +=
                "<text x=\"\((x + 3).rounded2)\" y=\"\((y + 12).rounded2)\">\(escape(String(name)))</text>"
        }
        marks += "</g>"
        var next = x
        for callee in frame.callees.values.sorted(by: { $0.name < $1.name }) {
            draw(callee, x: next, bottom: y, into: &marks)
            next += Double(callee.count) / Double(max(root.count, 1)) * Self.width
        }
    }

    /// Warm and light, the same for one name in every graph.
    private static func color(_ name: String) -> String {
        let sum = name.utf8.reduce(UInt32(7)) { $0 &* 31 &+ UInt32($1) }
        return "hsl(\(15 + sum % 40),\(70 + sum / 64 % 20)%,\(68 + sum / 4096 % 12)%)"
    }
}
