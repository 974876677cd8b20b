import CLinux
import FoundationEssentials
import Glibc
import Health
import Telemetry

/// Asks a running daemon over its unix socket.
package struct StatusClient: Sendable {
    let socketPath: String
    private let patienceSeconds: Int

    /// Makes a client for the daemon that listens at a path.
    ///
    /// - Parameters:
    ///   - socketPath: where it listens.
    ///   - patienceSeconds: how long it may take for each answer.
    package init(socketPath: String, patienceSeconds: Int = StatusClient.usualPatienceSeconds) {
        self.socketPath = socketPath
        self.patienceSeconds = patienceSeconds
    }

    /// How long the daemon may take: it answers within a tenth of a second under full load.
    package static let usualPatienceSeconds = 2

    /// The daemon's status as it sends it, JSON.
    ///
    /// - Throws: `ExitFailure` in an operator's words, where nobody answers, or not what a twilld of this release
    ///   would.
    @available(*, noasync, message: "it blocks: use onThread")
    package func statusText() throws(ExitFailure) -> String { try document("/status") }

    /// The daemon's metrics, as Prometheus has them.
    ///
    /// - Throws: `ExitFailure` in an operator's words, where nobody answers, or not what a twilld of this release
    ///   would.
    @available(*, noasync, message: "it blocks: use onThread")
    package func metricsText() throws(ExitFailure) -> String { try document("/metrics") }

    private func document(_ path: String) throws(ExitFailure) -> String {
        let answer = try get(path)
        let parts = answer.split(separator: "\r\n\r\n", maxSplits: 1)
        guard parts.count == 2, answer.hasPrefix("HTTP/1.1 200 ") else {
            throw ExitFailure(
                .unavailable,
                "what answers at \(socketPath) is no twilld: \(String(answer.prefix(60)).printable)")
        }
        return String(parts[1])
    }

    /// The daemon's status.
    ///
    /// - Throws: `ExitFailure` in an operator's words, where nobody answers, or not what a twilld of this release
    ///   would.
    @available(*, noasync, message: "it blocks: use onThread")
    package func status() throws(ExitFailure) -> NodeStatus {
        do {
            return try JSONDecoder().decode(NodeStatus.self, from: Data(try statusText().utf8))
        } catch let failure as ExitFailure {
            throw failure
        } catch {
            throw ExitFailure(
                .unavailable,
                "the daemon at \(socketPath) is of another release: what it says of itself is not of "
                    + "the form that this "
                    + "twilld reads; ask with its own")
        }
    }

    /// Whether a daemon listens, however long that one needs to answer: not where the kernel says that nobody
    /// does.
    ///
    /// - Throws: `ExitFailure` in an operator's words, where nobody answers, or not what a twilld of this release
    ///   would.
    @available(*, noasync, message: "it blocks: use onThread")
    package func isListenedTo() throws(ExitFailure) -> Bool { try StatusSocket.holder(of: socketPath) != nil }

    /// A socket that may be connected to the daemon; the caller closes it.
    func unconnectedSocket() throws(ExitFailure) -> Int32 {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw failure("open a socket") }
        var timeout = timeval(tv_sec: patienceSeconds, tv_usec: 0)
        let size = socklen_t(MemoryLayout<timeval>.size)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, size)
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &timeout, size)
        return descriptor
    }

    /// Connects to the daemon. Returns whether it did; else `errno` says why not.
    @available(*, noasync, message: "it blocks: use onThread")
    func connect(_ descriptor: Int32) throws(ExitFailure) -> Bool {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        guard socketPath.utf8.count < MemoryLayout.size(ofValue: address.sun_path) else {
            throw ExitFailure(
                .usage, "--status-socket is longer than a unix socket's path can be: \(socketPath)")
        }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(socketPath.utf8)) }
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) == 0
            }
        }
    }

    /// Captures packets until the daemon or `body` ends it.
    ///
    /// - Parameters:
    ///   - request: which packets, and how they are told.
    ///   - body: takes the bytes of the answer as they come, none where nothing came for a tenth of a second; returns
    ///     whether it wants more.
    /// - Throws: `ExitFailure` in an operator's words, where nobody answers, or another capture goes on.
    @available(*, noasync, message: "it blocks: use onThread")
    package func capture(
        _ request: CaptureRequest, _ body: (ArraySlice<UInt8>) throws(ExitFailure) -> Bool
    ) throws(ExitFailure) {
        let descriptor = try ask(request.uri)
        defer { close(descriptor) }
        var head: [UInt8] = []
        var hasBody = false
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            var waiting = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            let isReady = poll(&waiting, 1, hasBody ? 100 : Int32(clamping: patienceSeconds * 1000))
            if isReady == 0, hasBody {
                guard try body([]) else { return }
                continue
            }
            guard isReady > 0 else { throw failure("hear of the capture") }
            let count = recv(descriptor, &buffer, buffer.count, 0)
            if count < 0 && errno == EINTR { continue }
            guard count >= 0 else { throw failure("read what is captured") }
            if count == 0 {
                guard hasBody else { throw refusal(head) }
                return
            }
            var rest = buffer[..<count]
            if !hasBody {
                head += rest
                guard let end = head.firstRange(of: Array("\r\n\r\n".utf8)) else { continue }
                guard head.starts(with: "HTTP/1.0 200 ".utf8) else {
                    // The reason follows, up to the end of the connection.
                    if head.starts(with: "HTTP/1.1 ".utf8) { continue }
                    throw refusal(head)
                }
                hasBody = true
                rest = head[end.upperBound...]
            }
            if !rest.isEmpty { guard try body(rest) else { return } }
        }
    }

    private func refusal(_ answer: [UInt8]) -> ExitFailure {
        let text = String(decoding: answer, as: UTF8.self)
        let reason =
            text.split(separator: "\r\n\r\n", maxSplits: 1).dropFirst().first.map(String.init) ?? text
        return ExitFailure(
            .unavailable,
            "the daemon at \(socketPath) does not capture: \(reason.prefix(200).trimmed.printable)")
    }

    /// Connects and asks for a path.
    ///
    /// - Returns: the connection, which is the caller's to close.
    private func ask(_ path: String) throws(ExitFailure) -> Int32 {
        let descriptor = try unconnectedSocket()
        do throws(ExitFailure) {
            guard try connect(descriptor) else { throw failure("reach a running twilld") }
            let request = Array("GET \(path) HTTP/1.1\r\nHost: twilld\r\nConnection: close\r\n\r\n".utf8)
            guard send(descriptor, request, request.count, Int32(MSG_NOSIGNAL)) == request.count else {
                throw failure("ask twilld")
            }
        } catch {
            close(descriptor)
            throw error
        }
        return descriptor
    }

    private func get(_ path: String) throws(ExitFailure) -> String {
        let descriptor = try ask(path)
        defer { close(descriptor) }
        var answer: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = recv(descriptor, &buffer, buffer.count, 0)
            if count < 0 && errno == EINTR { continue }
            guard count >= 0 else { throw failure("read twilld's answer") }
            if count == 0 { return String(decoding: answer, as: UTF8.self) }
            answer += buffer[..<count]
        }
    }

    private func failure(_ action: String) -> ExitFailure {
        let number = errno
        let advice: String =
            switch number {
            case ENOENT, ECONNREFUSED: "; is it running, and is this its --status-socket?"
            case EACCES, EPERM: "; run as root"
            case EAGAIN: "; it does not answer in \(patienceSeconds) s"
            default: ""
            }
        return ExitFailure(
            number == EACCES || number == EPERM ? .permission : .unavailable,
            "cannot \(action) at \(socketPath): \(systemWords(number))\(advice)")
    }
}

extension Substring {
    /// Without white space at its ends.
    fileprivate var trimmed: String {
        String(drop { $0.isWhitespace }.reversed().drop { $0.isWhitespace }.reversed())
    }
}
