/// Times of day as sentences and the API have them: RFC 3339 in UTC, to the second.
package enum WallTime {
    /// `2026-11-29T03:32:56Z` for seconds of the Unix epoch.
    package static func text(_ seconds: Int) -> String {
        let days = (seconds < 0 ? seconds &- 86_399 : seconds) / 86_400
        let second = seconds &- days &* 86_400
        // Days of the civil calendar (Howard Hinnant: chrono-compatible low-level date algorithms).
        let shifted = days &+ 719_468
        let era = (shifted >= 0 ? shifted : shifted &- 146_096) / 146_097
        let dayOfEra = shifted &- era &* 146_097
        let yearOfEra = (dayOfEra &- dayOfEra / 1460 &+ dayOfEra / 36_524 &- dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra &- (365 &* yearOfEra &+ yearOfEra / 4 &- yearOfEra / 100)
        let monthIndex = (5 &* dayOfYear &+ 2) / 153
        let day = dayOfYear &- (153 &* monthIndex &+ 2) / 5 &+ 1
        let month = monthIndex < 10 ? monthIndex &+ 3 : monthIndex &- 9
        let year = yearOfEra &+ era &* 400 &+ (month <= 2 ? 1 : 0)
        func two(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }
        return
            "\(year)-\(two(month))-\(two(day))T\(two(second / 3600)):\(two(second / 60 % 60)):\(two(second % 60))Z"
    }

    /// The seconds of the Unix epoch of an HTTP date (RFC 9110, section 5.6.7): `Sun, 29 Nov 2026 03:32:56 GMT`.
    ///
    /// - Returns: nil where it is none.
    package static func seconds(httpDate text: String) -> Int? {
        let parts = text.split(separator: " ")
        let months = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ]
        // checked: six
        guard parts.count == 6, parts.last == "GMT", let day = Int(parts[1]), (1...31).contains(day),
            let month = months.firstIndex(of: String(parts[2])), let year = Int(parts[3]),  // checked: six
            (1970...9999).contains(year)
        else { return nil }
        let clock = parts[4].split(separator: ":").compactMap { Int($0) }  // checked: six
        guard clock.count == 3, let hour = clock.first, let second = clock.last, (0...23).contains(hour),
            (0...60).contains(second), (0...59).contains(clock[1])  // checked: three
        else { return nil }
        let shifted = month < 2 ? year &- 1 : year
        let (era, yearOfEra) = (shifted / 400, shifted % 400)
        let dayOfYear = (153 &* ((month &+ 10) % 12) &+ 2) / 5 &+ day &- 1
        let dayOfEra = yearOfEra &* 365 &+ yearOfEra / 4 &- yearOfEra / 100 &+ dayOfYear
        let days = era &* 146_097 &+ dayOfEra &- 719_468
        return days &* 86_400 &+ hour &* 3600 &+ clock[1] &* 60 &+ second  // checked: three
    }
}
