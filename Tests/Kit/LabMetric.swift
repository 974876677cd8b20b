import FoundationEssentials
import Glibc

/// A sample of `/metrics`.
public struct LabMetric: Sendable {
    /// `twill_worker_packets_total`.
    public let name: String
    /// What stands between its braces.
    public let labels: [String: String]
    /// Its value.
    public let value: Double

    /// Reads the text format of Prometheus.
    static func parse(_ text: String) -> [LabMetric] {
        text.split(separator: "\n").filter { !$0.hasPrefix("#") }.compactMap { line in
            guard let space = line.lastIndex(of: " "), let value = Double(line[line.index(after: space)...])
            else {
                return nil
            }
            let parts = line[..<space].split(separator: "{", maxSplits: 1)
            guard let name = parts.first else { return nil }
            let pairs = parts.dropFirst().first?.split(separator: "\"") ?? []
            var labels: [String: String] = [:]
            // `worker=` and `0`, `,direction=` and `sent`, and the brace at the end.
            for index in stride(from: 0, to: pairs.count - 1, by: 2) {
                labels[String(pairs[index].filter { $0 != "," && $0 != "=" })] = String(pairs[index + 1])
            }
            return LabMetric(name: String(name), labels: labels, value: value)
        }
    }
}

/// Asks over a daemon's unix socket.
enum UnixHTTP {
    private static let timeoutSeconds = 5

    /// The body of the answer; nil where none comes, or one of another status than 200.
    static func get(_ path: String, at socketPath: String) -> String? {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var timeout = timeval(tv_sec: timeoutSeconds, tv_usec: 0)
        let size = socklen_t(MemoryLayout<timeval>.size)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, size)
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &timeout, size)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        guard socketPath.utf8.count < MemoryLayout.size(ofValue: address.sun_path) else { return nil }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(socketPath.utf8)) }
        let isConnected = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) == 0
            }
        }
        let request = Array("GET \(path) HTTP/1.1\r\nHost: twilld\r\nConnection: close\r\n\r\n".utf8)
        guard isConnected, send(descriptor, request, request.count, Int32(MSG_NOSIGNAL)) == request.count
        else {
            return nil
        }
        var answer: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = recv(descriptor, &buffer, buffer.count, 0)
            guard count >= 0 else { return nil }
            if count == 0 { break }
            answer += buffer[..<count]
        }
        let text = String(decoding: answer, as: UTF8.self)
        guard text.hasPrefix("HTTP/1.1 200 "), let head = text.firstRange(of: "\r\n\r\n") else { return nil }
        return String(text[head.upperBound...])
    }
}
