import CLinux
import Glibc
import Testing

@testable import twilld

/// Gives the same answer for a few paths.
private struct Fixed: Observable {
    func answer(path: String) -> HTTPAnswer? {
        switch path {
        case "/healthz": HTTPAnswer(status: .ok, body: "ok\n")
        case "/readyz": HTTPAnswer(status: .serviceUnavailable, body: "waiting\n")
        case "/status": HTTPAnswer(status: .ok, contentType: "application/json", body: "{}\n")
        default: nil
        }
    }
}

/// Sends a request over TCP and reads until the server closes.
private func exchange(port: UInt16, _ request: String) -> String {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(descriptor) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    let connected = withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
    }
    guard connected == 0 else { return "not connected" }
    let bytes = Array(request.utf8)
    #expect(send(descriptor, bytes, bytes.count, 0) == bytes.count)
    var answer: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 4096)
    while true {
        let count = recv(descriptor, &buffer, buffer.count, 0)
        guard count > 0 else { return String(decoding: answer, as: UTF8.self) }
        answer += buffer[..<count]
    }
}

extension StatusClient {
    /// Whether a daemon answers.
    fileprivate var isAnswered: Bool { (try? statusText()) != nil }
}

@Suite struct ObservationServerTests {
    /// Runs `body` with a server on a port that the kernel chose and on a unix socket.
    private func withServer(_ body: (UInt16, String) async throws -> Void) async throws {
        let server = ObservationServer(Fixed())
        let path = "/tmp/twill-test-\(getpid())-\(UInt32.random(in: 0...UInt32.max))/twilld.sock"
        let port = try await server.listen(host: "127.0.0.1", port: 0)
        try await server.listen(socketPath: path)
        do { try await body(port, path) } catch {
            await server.stop(removing: path)
            throw error
        }
        await server.stop(removing: path)
        #expect(access(path, F_OK) != 0)
        rmdir(String(path.dropLast("/twilld.sock".count)))
    }

    @Test func answersOnThePort() async throws {
        try await withServer { port, _ in
            func request(_ line: String) -> String {
                exchange(port: port, line + " HTTP/1.1\r\nHost: x\r\n\r\n")
            }
            #expect(
                request("GET /healthz") == """
                    HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r
                    Connection: close\r\n\r\nok\n
                    """)
            #expect(request("GET /healthz?full=1").hasPrefix("HTTP/1.1 200 "))
            #expect(request("GET /readyz").hasPrefix("HTTP/1.1 503 "))
            #expect(request("GET /readyz").hasSuffix("\r\n\r\nwaiting\n"))
            #expect(request("HEAD /healthz").hasSuffix("Connection: close\r\n\r\n"))
            #expect(request("POST /healthz").hasPrefix("HTTP/1.1 405 "))
            #expect(request("GET /nothing").hasPrefix("HTTP/1.1 404 "))
            // The addresses of all nodes are not for whoever reaches the port.
            #expect(request("GET /status").hasPrefix("HTTP/1.1 404 "))
        }
    }

    @Test func survivesNonsense() async throws {
        try await withServer { port, path in
            _ = exchange(port: port, "\u{0}\u{1}nonsense\r\n\r\n")
            _ = exchange(port: port, "GET / HTTP/9.9\r\n\r\n")
            _ = exchange(port: port, "GET /healthz HTTP/1.1\r\nContent-Length: -1\r\n\r\n")
            #expect(StatusClient(socketPath: path).isAnswered)
        }
    }

    @Test func theUnixSocketHasTheStatusToo() async throws {
        try await withServer { _, path in
            let client = StatusClient(socketPath: path)
            let text = try client.statusText()
            #expect(text == "{}\n")
            #expect(throws: CommandFailure.self) { try client.status() }
            var information = stat()
            #expect(stat(path, &information) == 0)
            #expect(information.st_mode & 0o777 == 0o600)
        }
    }

    @Test func aSecondDaemonLeavesTheFirstsSocketAlone() async throws {
        try await withServer { _, path in
            let second = ObservationServer(Fixed())
            await #expect(throws: CommandFailure.self) { try await second.listen(socketPath: path) }
            await second.stop(removing: nil)
            #expect(StatusClient(socketPath: path).isAnswered)
        }
    }

    @Test func aDaemonThatIsTooBusyToAnswerKeepsItsSocket() async throws {
        let path = "/tmp/twill-test-\(getpid())-busy.sock"
        unlink(path)
        let listener = unixSocket(path, bind)
        defer {
            close(listener)
            unlink(path)
        }
        // One connection may wait to be taken, and does: the next is refused with EAGAIN.
        #expect(listen(listener, 0) == 0)
        let waiting = unixSocket(path, connect)
        defer { close(waiting) }
        let second = ObservationServer(Fixed())
        await #expect(throws: CommandFailure.self) { try await second.listen(socketPath: path) }
        await second.stop(removing: nil)
        #expect(access(path, F_OK) == 0)
        // Nor does `twilld cleanup` take it for one that has ended.
        #expect(try StatusClient(socketPath: path).isListenedTo())
    }

    /// A stream socket with the name `path`: its own, or that of its peer.
    private func unixSocket(
        _ path: String, _ named: (Int32, UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) -> Int32 {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(path.utf8)) }
        let outcome = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                named(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        #expect(outcome == 0)
        return descriptor
    }

    @Test func aSocketThatNobodyListensToIsReplaced() async throws {
        let path = "/tmp/twill-test-\(getpid())-left.sock"
        #expect(close(open(path, O_CREAT | O_WRONLY, 0o600)) == 0)
        #expect(try !StatusClient(socketPath: path).isListenedTo())
        let server = ObservationServer(Fixed())
        try await server.listen(socketPath: path)
        #expect(StatusClient(socketPath: path).isAnswered)
        await server.stop(removing: path)
    }

    @Test func aTakenPortIsNamed() async throws {
        try await withServer { port, _ in
            let second = ObservationServer(Fixed())
            let failure = await #expect(throws: CommandFailure.self) {
                try await second.listen(host: "127.0.0.1", port: port)
            }
            await second.stop(removing: nil)
            #expect(failure?.status == .temporary)
            #expect(failure?.message.contains("127.0.0.1:\(port)") == true)
            #expect(failure?.message.contains("--healthz-port") == true)
        }
    }

    @Test func noDaemonIsSaidWithTheSocketsPath() {
        let failure = #expect(throws: CommandFailure.self) {
            try StatusClient(socketPath: "/tmp/twill-test-nothing.sock").status()
        }
        #expect(failure?.status == .unavailable)
        #expect(failure?.message.contains("/tmp/twill-test-nothing.sock") == true)
    }
}
