import CLinux
import FoundationEssentials
import Glibc
import Host
import Testing

@testable import NodeDaemon

/// Gives the same answer for a few paths.
private struct Fixed: Observable {
    func capture(_ request: CaptureRequest) -> Capture? { nil }

    func answer(path: String) -> HTTPAnswer? {
        switch path {
        case "/healthz": HTTPAnswer(status: .ok, body: "ok\n")
        case "/readyz": HTTPAnswer(status: .serviceUnavailable, body: "waiting\n")
        case "/status": HTTPAnswer(status: .ok, contentType: "application/json", body: "{}\n")
        default: nil
        }
    }
}

/// A connection to the server over TCP; the caller closes it.
private func connected(_ port: UInt16) -> Int32 {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    let connected = withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
    }
    #expect(connected == 0)
    return descriptor
}

/// Sends a request over TCP and reads until the server closes.
private func exchange(port: UInt16, _ request: String) -> String {
    let descriptor = connected(port)
    defer { close(descriptor) }
    let bytes = Array(request.utf8)
    #expect(send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count)
    var answer: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 4096)
    while true {
        let count = recv(descriptor, &buffer, buffer.count, 0)
        guard count > 0 else { return String(decoding: answer, as: UTF8.self) }
        answer += buffer[..<count]
    }
}

extension StatusClient {
    /// Whether a daemon answers, on a machine that is busy with all other tests too.
    fileprivate var isAnswered: Bool {
        get async { await onThread { (0..<20).contains { _ in (try? statusText()) != nil } } }
    }
}

/// Runs `body` with a server on a port that the kernel chose and on a unix socket.
private func withServer(_ body: (UInt16, String) async throws -> Void) async throws {
    let server = ObservationServer(Fixed())
    let path = "/tmp/twill-test-\(getpid())-\(UInt32.random(in: 0...UInt32.max))/twilld.sock"
    let port = try await server.listen(host: "127.0.0.1", port: 0)
    let socket = try await onThread { try StatusSocket.open(at: path) }
    try await server.listen(socket)
    do { try await body(port, path) } catch {
        await onThread { socket.removeName() }
        await server.stop()
        throw error
    }
    await onThread { socket.removeName() }
    await server.stop()
    #expect(access(path, F_OK) != 0)
    rmdir(String(path.dropLast("/twilld.sock".count)))
}

private func residentPages() -> Int {
    let text = (try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8)) ?? ""
    return text.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0
}

@Suite struct ObservationServerTests {
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
            #expect(await StatusClient(socketPath: path, patienceSeconds: 60).isAnswered)
        }
    }

    @Test func theUnixSocketHasTheStatusToo() async throws {
        try await withServer { _, path in
            let client = StatusClient(socketPath: path, patienceSeconds: 60)
            let text = try await onThread { try client.statusText() }
            #expect(text == "{}\n")
            await #expect(throws: ExitFailure.self) { try await onThread { try client.status() } }
            var information = stat()
            #expect(stat(path, &information) == 0)
            #expect(information.st_mode & 0o777 == 0o600)
        }
    }

    @Test func aSecondDaemonLeavesTheFirstsSocketAlone() async throws {
        try await withServer { _, path in
            // The caller of listen(2) is named: this process.
            await #expect(throws: StatusSocket.Held(processIdentifier: getpid())) {
                try await onThread { try StatusSocket.open(at: path) }
            }
            #expect(await StatusClient(socketPath: path, patienceSeconds: 60).isAnswered)
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
        await #expect(throws: StatusSocket.Held(processIdentifier: nil)) {
            try await onThread { try StatusSocket.open(at: path) }
        }
        #expect(access(path, F_OK) == 0)
        // Nor does `twilld cleanup` take it for one that has ended.
        #expect(try await onThread { try StatusClient(socketPath: path, patienceSeconds: 60).isListenedTo() })
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
        unlink(path)
        // As a daemon leaves it that was killed.
        close(unixSocket(path, bind))
        let isListenedTo = try await onThread { try StatusClient(socketPath: path).isListenedTo() }
        #expect(!isListenedTo)
        let server = ObservationServer(Fixed())
        let socket = try await onThread { try StatusSocket.open(at: path) }
        try await server.listen(socket)
        #expect(await StatusClient(socketPath: path, patienceSeconds: 60).isAnswered)
        await onThread { socket.removeName() }
        await server.stop()
        #expect(access(path, F_OK) != 0)
    }

    @Test func aFileThatIsNoSocketIsLeftAlone() {
        let path = "/tmp/twill-test-\(getpid())-file"
        #expect(close(open(path, O_CREAT | O_WRONLY, 0o600)) == 0)
        defer { unlink(path) }
        let failure = #expect(throws: ExitFailure.self) { try StatusSocket.open(at: path) }
        #expect(failure?.message.contains("no socket") == true)
        #expect(access(path, F_OK) == 0)
    }

    @Test func aPathThatIsTooLongOrInNoDirectoryIsSaid() {
        let long = "/tmp/" + String(repeating: "x", count: 103)
        #expect(throws: ExitFailure.self) { try StatusSocket.open(at: long) }
        let failure = #expect(throws: ExitFailure.self) {
            try StatusSocket.open(at: "/proc/nowhere/t.sock")
        }
        #expect(failure?.message.contains("/proc/nowhere/t.sock can't be made: ") == true)
        #expect(failure?.message.contains("Error") == false)
    }

    @Test func theLongestPathWorks() throws {
        let path = "/tmp/" + String(repeating: "y", count: 102)
        let socket = try StatusSocket.open(at: path)
        #expect(try StatusClient(socketPath: path, patienceSeconds: 60).isListenedTo())
        close(socket.descriptor)
        socket.removeName()
    }

    /// At each moment there is either no name or one that nobody else may connect to.
    @Test func theSocketIsNeverOthersToConnectTo() throws {
        let directory = "/tmp/twill-test-\(getpid())-mode"
        #expect(mkdir(directory, 0o755) == 0)
        defer { rmdir(directory) }
        let before = umask(0)
        let socket = try StatusSocket.open(at: directory + "/t.sock")
        umask(before)
        var information = stat()
        #expect(stat(directory + "/t.sock", &information) == 0)
        #expect(information.st_mode & 0o777 == 0o600)
        close(socket.descriptor)
        socket.removeName()
    }

    @Test func anotherDaemonsNameIsNotRemoved() throws {
        let path = "/tmp/twill-test-\(getpid())-two.sock"
        unlink(path)
        let first = try StatusSocket.open(at: path)
        close(first.descriptor)
        let second = try StatusSocket.open(at: path)
        first.removeName()
        #expect(access(path, F_OK) == 0)
        close(second.descriptor)
        second.removeName()
        #expect(access(path, F_OK) != 0)
    }

    // MARK: Limits

    /// Connections that send nothing, more than there may be.
    @Test func idleConnectionsKeepNobodyOut() async throws {
        try await withServer { port, path in
            var idle: [Int32] = []
            defer { for descriptor in idle { close(descriptor) } }
            for _ in 0..<(ObservationServer.Limits.portConnections * 3) { idle.append(connected(port)) }
            for _ in 0..<3 {
                #expect(exchange(port: port, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").hasSuffix("ok\n"))
            }
            // The oldest made place, and the process has no more than the limit.
            var byte: UInt8 = 0
            #expect(recv(idle[0], &byte, 1, 0) == 0)
            #expect(await StatusClient(socketPath: path, patienceSeconds: 60).isAnswered)
        }
    }

    @Test func aRequestWithoutEndIsEnded() async throws {
        try await withServer { port, _ in
            let descriptor = connected(port)
            defer { close(descriptor) }
            let line = Array("X-Filler: \(String(repeating: "x", count: 1000))\r\n".utf8)
            _ = send(descriptor, "GET /healthz HTTP/1.1\r\n", 23, Int32(MSG_NOSIGNAL))
            var sent = 0
            while send(descriptor, line, line.count, Int32(MSG_NOSIGNAL)) > 0, sent < 10_000_000 {
                sent += line.count
            }
            #expect(sent < 10_000_000)
        }
    }

    @Test func whatFollowsARequestIsNotAnswered() async throws {
        try await withServer { port, _ in
            let one = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
            let answer = exchange(port: port, one + one + "\u{0}garbage\r\n\r\n")
            #expect(answer.split(separator: "HTTP/1.1 200").count == 1)
        }
    }

    /// A connection that was closed is gone at once, with what belongs to it. In a process of its own, whose memory
    /// no other test takes.
    @Test func closedConnectionsAreNotKept() async throws {
        await #expect(processExitsWith: .success) {
            try await withServer { port, _ in
                for _ in 0..<200 { _ = exchange(port: port, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") }
                let before = residentPages()
                for _ in 0..<3000 { _ = exchange(port: port, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") }
                // 3,000 channels that are kept are some 15 MB.
                let taken = residentPages() - before
                precondition(taken < 1500, "3,000 connections left \(taken) pages")
            }
        }
    }

    @Test func aTakenPortIsNamed() async throws {
        try await withServer { port, _ in
            let second = ObservationServer(Fixed())
            let failure = await #expect(throws: ExitFailure.self) {
                try await second.listen(host: "127.0.0.1", port: port)
            }
            await second.stop()
            #expect(failure?.status == .temporary)
            #expect(
                failure?.message
                    == "/healthz and /metrics can't listen on 127.0.0.1:\(port): Address already in use")
        }
    }

    @Test func noDaemonIsSaidWithTheSocketsPath() {
        let failure = #expect(throws: ExitFailure.self) {
            try StatusClient(socketPath: "/tmp/twill-test-nothing.sock").status()
        }
        #expect(failure?.status == .unavailable)
        #expect(failure?.message.contains("/tmp/twill-test-nothing.sock") == true)
    }
}
