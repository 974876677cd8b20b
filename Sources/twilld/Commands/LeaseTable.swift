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
                listing.subnet, listing.name ?? "-", listing.endpoint.map { "\($0)" } ?? "-", ends,
                listing.problem.map { "not used: \($0.printable)" }
                    ?? (listing.isReservation ? "reservation" : "lease"),
            ]
        }
    }

    /// Lines, each with its end.
    var text: String {
        let all = [["SUBNET", "NODE", "ENDPOINT", "ENDS IN", "STATE"]] + rows
        let widths = (0..<4).map { column in (all.map { $0[column].count }.max() ?? 0) + 2 }
        return all.map { row in
            zip(row, widths).map { $0 + String(repeating: " ", count: $1 - $0.count) }.joined() + row[4]
                + "\n"
        }.joined()
    }

    /// `23h 59m`.
    private static func hoursAndMinutes(_ duration: Duration) -> String {
        let minutes = max(0, duration.components.seconds) / 60
        return "\(minutes / 60)h \(minutes % 60)m"
    }
}

extension LeaseOperations.Listing {
    /// The subnet as everything else writes it, `10.66.28.0/24`; the key where that is none.
    fileprivate var subnet: String { LeaseSubnet(key: key).map { "\($0)" } ?? key.printable }
}

/// Leases as `twilld lease list --json` prints them.
struct LeaseDocument: Encodable {
    /// One of them.
    struct Entry: Encodable {
        let subnet: String
        let key: String
        let name: String?
        let endpoint: String?
        let holder: String?
        let isReservation: Bool
        let remainingSeconds: Double?
        let problem: String?
    }

    let schema = 1
    let leases: [Entry]

    init(_ listings: [LeaseOperations.Listing]) {
        leases = listings.map {
            Entry(
                subnet: $0.subnet, key: $0.key, name: $0.name, endpoint: $0.endpoint.map { "\($0)" },
                holder: $0.holder.map { "\($0)" }, isReservation: $0.isReservation,
                remainingSeconds: $0.remaining.map { $0 / .seconds(1) }, problem: $0.problem)
        }
    }
}
