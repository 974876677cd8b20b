import Glibc
import NetworkNamespaces

/// A program of the package in `Benchmarks`, which `swift build --package-path Benchmarks` makes.
public enum BenchmarkProgram: String {
    /// Datagrams and streams whose every byte is checked, and datagrams that no node should send.
    case traffic
    /// A forwarder of one packet a system call, as flannel's is.
    case baseline
    /// twill's data plane without its control side.
    case dataPlane = "scale-forwarder"

    /// Where it is.
    ///
    /// - Parameter configurations: of builds; the first that has it counts.
    public func path(_ configurations: [String] = ["debug"]) throws -> String {
        let root = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        let paths = configurations.map { "/\(root)/Benchmarks/.build/\($0)/\(rawValue)" }
        guard let path = paths.first(where: { access($0, X_OK) == 0 }) else {
            throw NoProgram(description: "there is no \(paths): swift build --package-path Benchmarks")
        }
        return path
    }
}

/// A program was not built.
public struct NoProgram: Error, CustomStringConvertible {
    /// Which, and what to do.
    public let description: String
}
