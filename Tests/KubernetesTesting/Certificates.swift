import Foundation

/// An authority with a server's certificate for 127.0.0.1 and a client's, and another authority that signed neither.
package final class Certificates: Sendable {
    package static let shared = Result { try Certificates() }

    package let directory = NSTemporaryDirectory() + "kubernetes-certificates-\(UUID().uuidString)"

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

    package subscript(name: String) -> String { "\(directory)/\(name)" }

    package func base64(_ name: String) throws -> String {
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
            throw CocoaError(.executableLoad, userInfo: ["openssl": arguments])
        }
    }
}
