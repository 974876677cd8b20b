/// A quantity that is measured for each candidate.
struct Metric: Codable, Hashable {
    /// `tcp-1.throughput`: the measurement, a dot, the quantity.
    let name: String
    /// What the table's column is called.
    let title: String
    let unit: String
    let moreIsBetter: Bool
    /// Whether the table on the terminal shows it; the reports show all.
    let isHeadline: Bool
    let decimals: Int
}

/// One raw figure: a metric of a candidate in one round on one underlay.
struct Sample: Codable {
    let underlay: Underlay
    let round: Int
    let candidate: String
    let metric: String
    let value: Double
}

/// What went wrong for a candidate in a round.
struct Failure: Codable {
    let underlay: Underlay
    let round: Int
    let candidate: String
    let message: String
}
