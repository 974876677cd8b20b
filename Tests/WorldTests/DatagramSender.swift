import Addresses
import Glibc
import Kit

/// There is no way to an address.
private struct NoSocket: Error {
    let address: IPv4Address
}

/// Sends datagrams to a daemon's port, as whoever is in a node's namespace.
struct DatagramSender: Sendable {
    private let descriptor: Int32

    /// Opens a socket in a node's namespace.
    init(on node: LabNode, to address: IPv4Address, port: UInt16 = 8285) async throws {
        descriptor = try await node.namespace.run {
            let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
            var name = sockaddr_in()
            name.sin_family = sa_family_t(AF_INET)
            name.sin_port = port.bigEndian
            name.sin_addr.s_addr = address.bits.bigEndian
            let result = withUnsafePointer(to: &name) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
            guard result == 0 else { throw NoSocket(address: address) }
            return descriptor
        }
    }

    func close() { _ = Glibc.close(descriptor) }

    /// Sends one datagram.
    func send(_ bytes: [UInt8]) { _ = Glibc.send(descriptor, bytes, bytes.count, 0) }

    /// Sends datagrams one after the other, over and over, on a thread of its own.
    ///
    /// - Parameters:
    ///   - rate: datagrams a second.
    /// - Returns: how many were sent.
    func flood(_ datagrams: [[UInt8]], seconds: Double, rate: Int) async -> Int {
        await withCheckedContinuation { continuation in
            let job = Unmanaged.passRetained(
                Job { continuation.resume(returning: work(datagrams, seconds: seconds, rate: rate)) })
            var thread = pthread_t()
            pthread_create(
                &thread, nil,
                { argument in
                    if let argument { Unmanaged<Job>.fromOpaque(argument).takeRetainedValue().run() }
                    return nil
                }, job.toOpaque())
            pthread_detach(thread)
        }
    }

    private final class Job: Sendable {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    private func work(_ datagrams: [[UInt8]], seconds: Double, rate: Int) -> Int {
        let clock = ContinuousClock()
        let start = clock.now
        var sent = 0
        while true {
            let elapsed = (clock.now - start) / .seconds(1)
            if elapsed >= seconds { return sent }
            guard Double(sent) < elapsed * Double(rate) else {
                usleep(200)
                continue
            }
            for _ in 0..<16 {
                send(datagrams[sent % datagrams.count])
                sent += 1
            }
        }
    }
}

extension LabPod {
    /// Echo requests to another pod: how many were sent and answered, and the round trip that 99 of 100 stay below.
    func echoes(to address: String, count: Int, interval: Double) async throws -> (
        sent: Int, answered: Int, p99Milliseconds: Double
    ) {
        let output = try await run("ping -n -i \(interval) -W 2 -c \(count) \(address) || true")
        let times = output.split(separator: "\n").compactMap { line in
            line.split(separator: " ").first { $0.hasPrefix("time=") }.flatMap { Double($0.dropFirst(5)) }
        }.sorted()
        return (
            count, times.count,
            times.isEmpty ? .infinity : times[min(times.count - 1, times.count * 99 / 100)]
        )
    }
}
