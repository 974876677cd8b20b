import Foundation

/// What openssl was asked for and did not do.
public struct NoCertificate: Error, CustomStringConvertible {
    /// The command.
    public let description: String
}

/// An authority with a server's certificate for 127.0.0.1 and a client's, and another authority that signed neither.
/// They are made once for each process of tests.
public final class Certificates: Sendable {
    /// Those of this process.
    public static let shared = Result { try Certificates() }

    private let directory = NSTemporaryDirectory() + "certificates-\(UUID().uuidString)"

    private init() throws {
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        for authority in ["authority", "stranger"] {
            try openssl(
                "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
                "2",
                "-subj", "/CN=\(authority)", "-keyout", "\(authority).key", "-out", "\(authority).pem")
        }
        for name in ["server", "client"] {
            try openssl(
                "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
                "/CN=\(name)",
                "-keyout", "\(name).key", "-out", "\(name).csr")
            try "subjectAltName=IP:127.0.0.1\n".write(
                toFile: "\(directory)/\(name).ext", atomically: true, encoding: .utf8)
            try openssl(
                "x509", "-req", "-in", "\(name).csr", "-CA", "authority.pem", "-CAkey", "authority.key",
                "-CAcreateserial", "-days", "2", "-extfile", "\(name).ext", "-out", "\(name).pem")
        }
    }

    /// The path of one of the files: `server.pem`, `server.key`, `stranger.pem`, …
    public subscript(name: String) -> String { "\(directory)/\(name)" }

    /// The contents of one of the files.
    ///
    /// - Throws: where it cannot be read.
    public func base64(_ name: String) throws -> String {
        try Data(contentsOf: URL(filePath: self[name])).base64EncodedString()
    }

    private func openssl(_ arguments: String...) throws {
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/openssl")
        process.arguments = arguments
        process.currentDirectoryURL = URL(filePath: directory)
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        try process.run()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else {
            throw NoCertificate(description: "openssl \(arguments.joined(separator: " "))")
        }
    }
}
