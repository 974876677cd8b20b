extension String {
    /// The word of a list that was probably meant by this one; nil where none is near.
    func nearest(among words: [String]) -> String? {
        let nearest = words.map { ($0, distance(to: $0)) }.min { $0.1 < $1.1 }
        return nearest.flatMap { $0.1 <= Swift.max(1, count / 3) ? $0.0 : nil }
    }

    /// How many letters must be added, removed, changed or swapped with their neighbour to make one word of
    /// the other.
    func distance(to other: String) -> Int {
        let (left, right) = (Array(prefix(40)), Array(other.prefix(40)))
        var rows = [Array(0...right.count)]
        for (i, letter) in left.enumerated() {
            var row = [i + 1]
            for (j, wanted) in right.enumerated() {
                var cost = Swift.min(rows[i][j + 1] + 1, row[j] + 1, rows[i][j] + (letter == wanted ? 0 : 1))
                if i > 0, j > 0, letter == right[j - 1], left[i - 1] == wanted {
                    cost = Swift.min(cost, rows[i - 1][j - 1] + 1)
                }
                row.append(cost)
            }
            rows.append(row)
        }
        return rows[left.count][right.count]
    }
}
