import Glibc
internal import Host
internal import KubernetesNodes
import NIOSSL

/// The files that say how the cluster is reached and what was last known of it, on a thread of their own: a disk that
/// hangs holds up nobody else.
actor ClusterFiles {
    // Below 300 bytes for a node: 50,000 nodes.
    private static let keptLimit = 16 << 20
    // Bundles of certificates, and tokens.
    private static let credentialLimit = 1 << 20

    private nonisolated let thread: ControlThread
    nonisolated var unownedExecutor: UnownedSerialExecutor { thread.asUnownedSerialExecutor() }

    /// Starts the thread.
    ///
    /// - Throws: where the kernel gives none.
    init() throws(SystemError) { thread = try ControlThread() }

    deinit { thread.close() }

    func networkFile(_ path: String) -> ClusterMachine.NetworkFile {
        do throws(SystemError) {
            return try TextFile.read(path).map { .text($0) } ?? .missing
        } catch {
            return .unreadable(error.cause)
        }
    }

    /// What was kept; nil where there is nothing of use.
    func kept(_ path: String, keys: AnnotationKeys) -> KeptState? {
        let text = try? TextFile.read(path, limit: Self.keptLimit)
        return text.flatMap { $0 }.flatMap { KeptState(reading: Array($0.utf8), keys: keys) }
    }

    /// Keeps a state, by rename.
    ///
    /// - Returns: why it cannot be kept; nil where it was.
    func keep(_ state: KeptState, in path: String, keys: AnnotationKeys) -> String? {
        var state = state
        state.written = time(nil)
        do throws(SystemError) {
            try TextFile.replace(path, with: state.text(keys: keys), mode: 0o600)
            return nil
        } catch {
            return "\(error)"
        }
    }

    /// The text of a file or of what stands in its place, without blanks around it.
    func secret(_ source: APIAccess.Source) throws(APIFailure) -> String {
        let text = String(decoding: try bytes(source), as: UTF8.self)
        let words = text.split(whereSeparator: \.isWhitespace)
        guard words.count == 1, let word = words.first, word.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F })
        else {
            throw APIFailure(.credentials, "\(Self.name(of: source)) holds no token")
        }
        return String(word)
    }

    /// What a connection's TLS is made of.
    func material(_ access: APIAccess) throws(APIFailure) -> TLSMaterial {
        TLSMaterial(
            authority: try access.authority.map { source throws(APIFailure) in try bytes(source) },
            certificate: try access.clientCertificate.map { source throws(APIFailure) in try bytes(source) },
            key: try access.clientKey.map { source throws(APIFailure) in try bytes(source) })
    }

    private func bytes(_ source: APIAccess.Source) throws(APIFailure) -> [UInt8] {
        switch source {
        case .data(let bytes): return bytes
        case .file(let path):
            let text: String?
            do throws(SystemError) {
                text = try TextFile.read(path, limit: Self.credentialLimit)
            } catch {
                throw APIFailure(.credentials, "\(error)")
            }
            guard let text else { throw APIFailure(.credentials, "\(path) does not exist") }
            return Array(text.utf8)
        }
    }

    private static func name(of source: APIAccess.Source) -> String {
        if case .file(let path) = source { path } else { "the kubeconfig" }
    }
}

/// The bytes of the certificates and the key that a connection is made with.
struct TLSMaterial: Sendable, Equatable {
    var authority: [UInt8]?
    var certificate: [UInt8]?
    var key: [UInt8]?

    /// The TLS settings that follow from them.
    ///
    /// - Throws: which of them is no PEM.
    func configuration(verifies: Bool) throws(APIFailure) -> TLSConfiguration {
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.minimumTLSVersion = .tlsv12
        if !verifies { configuration.certificateVerification = .none }
        if let authority {
            configuration.trustRoots = .certificates(
                try Self.reading("the CA's certificate") { try NIOSSLCertificate.fromPEMBytes(authority) })
        }
        if let certificate, let key {
            configuration.certificateChain = try Self.reading("the client's certificate") {
                try NIOSSLCertificate.fromPEMBytes(certificate).map { .certificate($0) }
            }
            configuration.privateKey = try Self.reading("the client's key") {
                .privateKey(try NIOSSLPrivateKey(bytes: key, format: .pem))
            }
        }
        return configuration
    }

    private static func reading<Value>(
        _ what: String, _ body: () throws -> Value
    ) throws(APIFailure) -> Value {
        do { return try body() } catch { throw APIFailure(.credentials, "\(what) is no PEM: \(error)") }
    }
}
