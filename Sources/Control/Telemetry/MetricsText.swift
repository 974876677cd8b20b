import Health

/// Text in the format that Prometheus scrapes, version 0.0.4: families of samples, each with its help and
/// type.
///
/// Names are the caller's to get right: `[a-zA-Z_:][a-zA-Z0-9_:]*`, counters ending in `_total`.
public struct MetricsText: Sendable {
    /// What a family's values mean over time.
    public enum Kind: String, Sendable {
        /// Only grows, and starts at zero with the process.
        case counter
        /// Goes up and down.
        case gauge
    }

    /// One value of a family.
    public struct Sample: Sendable {
        /// Label names and values, in the order in which they are written.
        public var labels: [(name: String, value: String)]
        /// The value.
        public var value: Double

        /// Makes a sample.
        public init(_ value: Double, labels: [(name: String, value: String)] = []) {
            self.labels = labels
            self.value = value
        }
    }

    /// What `Content-Type` says of the text.
    public static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    /// What was written so far; whole lines.
    public private(set) var text = ""

    /// Makes an empty text.
    public init() {}

    /// Writes a family. A name may be written once only.
    public mutating func add(_ name: String, _ kind: Kind, help: String, _ samples: [Sample]) {
        header(name, kind.rawValue, help)
        for sample in samples { line(name, sample.labels, MetricsText.number(sample.value)) }
    }

    /// Writes a family of one sample without labels.
    public mutating func add(_ name: String, _ kind: Kind, help: String, _ value: Double) {
        add(name, kind, help: help, [Sample(value)])
    }

    /// Writes a histogram.
    ///
    /// - Parameters:
    ///   - name: the family's name.
    ///   - help: what an observation is, one sentence.
    ///   - bounds: the upper bound, itself included, of each bucket but the last, which has none.
    ///   - counts: how many observations fell into each bucket, not those below it; one more than `bounds`.
    ///   - sum: the sum of all observations.
    public mutating func addHistogram(
        _ name: String, help: String, bounds: [Double], counts: [UInt64], sum: Double
    ) {
        precondition(counts.count == bounds.count + 1)
        header(name, "histogram", help)
        var total: UInt64 = 0
        for (index, count) in counts.enumerated() {
            total &+= count
            let bound = index < bounds.count ? MetricsText.number(bounds[index]) : "+Inf"
            line(name + "_bucket", [("le", bound)], String(total))
        }
        line(name + "_sum", [], MetricsText.number(sum))
        line(name + "_count", [], String(total))
    }

    private mutating func header(_ name: String, _ kind: String, _ help: String) {
        text += "# HELP \(name) \(MetricsText.escaped(help, quotes: false))\n# TYPE \(name) \(kind)\n"
    }

    private mutating func line(_ name: String, _ labels: [(name: String, value: String)], _ value: String) {
        text += name
        if !labels.isEmpty {
            let pairs = labels.map {
                "\($0.name)=\"\(MetricsText.escaped($0.value, quotes: true))\""
            }
            text += "{" + pairs.joined(separator: ",") + "}"
        }
        text += " \(value)\n"
    }

    /// Whole numbers without a fraction; others as Swift writes them, which Go's `ParseFloat` reads.
    private static func number(_ value: Double) -> String {
        if value.isNaN { return "NaN" }
        if value.isInfinite { return value < 0 ? "-Inf" : "+Inf" }
        // Below 2^53 every whole number is exact.
        if value.magnitude < 9_007_199_254_740_992, let whole = Int64(exactly: value) { return String(whole) }
        return "\(value)"
    }

    private static func escaped(_ text: String, quotes: Bool) -> String {
        var result = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\"" where quotes: result += "\\\""
            // Metrics are read on terminals too.
            case _ where scalar.steersTerminals: result += "\\" + String(scalar).printable
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }
}
