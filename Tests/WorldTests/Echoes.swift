import Kit

extension LabPod {
    /// Echo requests to another pod: how many were sent and answered, and the round trip that 99 of 100 stay below.
    func echoes(to address: String, count: Int, interval: Double) async throws -> (
        sent: Int, answered: Int, p99Milliseconds: Double
    ) {
        let output = try await run("ping -n -i \(interval) -W 10 -c \(count) \(address) || true")
        let times = output.split(separator: "\n").compactMap { line in
            line.split(separator: " ").first { $0.hasPrefix("time=") }.flatMap { Double($0.dropFirst(5)) }
        }.sorted()
        return (
            count, times.count,
            times.isEmpty ? .infinity : times[min(times.count - 1, times.count * 99 / 100)]
        )
    }
}
