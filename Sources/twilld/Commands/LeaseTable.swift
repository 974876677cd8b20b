import Health
import Leases

/// Leases as `twilld lease list` prints them: a line each, columns under a heading.
struct LeaseTable {
    private let rows: [[String]]

    init(_ listings: [LeaseOperations.Listing]) {
        rows = listings.map { listing in
            let ends: String =
                if listing.isReservation { "never" } else {
                    listing.remaining.map { LeaseTable.hoursAndMinutes($0) } ?? "unknown"
                }
            return [
                listing.key.printable, listing.endpoint.map { "\($0)" } ?? "-", ends,
                listing.problem.map { "not used: \($0.printable)" }
                    ?? (listing.isReservation ? "reservation" : "lease"),
            ]
        }
    }

    /// Lines, each with its end.
    var text: String {
        let all = [["SUBNET", "ENDPOINT", "ENDS IN", "STATE"]] + rows
        let widths = (0..<3).map { column in (all.map { $0[column].count }.max() ?? 0) + 2 }
        return all.map { row in
            zip(row, widths).map { $0 + String(repeating: " ", count: $1 - $0.count) }.joined() + row[3]
                + "\n"
        }.joined()
    }

    /// `23h 59m`.
    private static func hoursAndMinutes(_ duration: Duration) -> String {
        let minutes = max(0, duration.components.seconds) / 60
        return "\(minutes / 60)h \(minutes % 60)m"
    }
}
