import ArgumentParser
import CLinux
import Fuzz
import Glibc
import Host
import Testing

@testable import NodeDaemon
@testable import twilld

// The parsers that are the daemon's own, on the driver that runs all others in `twill-fuzz`. TWILL_FUZZ_SECONDS gives
// each more than its usual second, TWILL_FUZZ_SEED another seed.
private func environment(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }

private func fuzz(_ target: NamedFuzzTarget) throws {
    let driver = FuzzDriver([target], seed: environment("TWILL_FUZZ_SEED").flatMap { UInt64($0) } ?? 1)
    let counts = try driver.run(seconds: environment("TWILL_FUZZ_SECONDS").flatMap { Double($0) } ?? 1)
    print(table(of: counts))
}

private func bytes(_ texts: String...) -> [[UInt8]] { texts.map { Array($0.utf8) } }

private let oddValues = bytes(
    "-1", "0", "+0", "65536", "9223372036854775808", "-9223372036854775809", "1e9", "NaN", "true", "FALSE",
    "\u{660}", "=", "--", "-",
    "\0", "\n", "#", " ", "\u{1B}[2J")

/// Words of a command line, each up to a zero byte: normalized once, they are as they shall be.
private final class FlagWordsTarget: FuzzTarget {
    let maximumBytes = 1024
    let words =
        oddValues + Run.flags.map { Array("--\($0.name)".utf8) }
        + Run.flags.map { Array("-\($0.name)=".utf8) }
    let seeds = bytes(
        "-ip-masq\0-iface\0eth0\0-etcd-endpoints=http://10.0.0.1:2379", "--lease-dir\0/var/lib/twill\0--v=10",
        "--help", "--\0run",
        "--workers=4\0--cpus=0-3,7\0--receive-buffers=4096", "--iface=eth0\0--iface=eth1\0-ip-masq=0")

    func run(_ bytes: [UInt8]) throws(FuzzFailure) {
        let words = bytes.split(separator: 0, omittingEmptySubsequences: false).map {
            String(decoding: $0, as: UTF8.self)
        }
        guard let once = try? normalized(words) else { return }
        guard let twice = try? normalized(once) else { throw FuzzFailure("\(once) is refused") }
        try hold(once == twice, "\(once) turned to \(twice)")
    }

    private func normalized(_ words: [String]) throws(ExitFailure) -> [String] {
        try FlagArguments(words, environment: [:], flags: Run.flags) { path throws(ExitFailure) in "" }
            .normalized
    }
}

/// A configuration file: what it gives is given as on the command line.
private final class ConfigurationFileTarget: FuzzTarget {
    let maximumBytes = 4096
    let words =
        oddValues + Run.flags.map { Array("\($0.name) = ".utf8) }
        + bytes("config = /etc/passwd\n", "\r\n", "\u{85}", "\u{2028}")
    let seeds = bytes(
        "# twill\nip-masq = true\niface = eth0\n\n  etcd-endpoints = http://10.0.0.1:2379 \n",
        "port=8285\nmtu=\n", "v = 1")

    func run(_ bytes: [UInt8]) throws(FuzzFailure) {
        let text = String(decoding: bytes, as: UTF8.self)
        let known = Set(Run.flags.map(\.name))
        guard
            let arguments = try? FlagArguments(
                ["--config=file"], environment: [:], flags: Run.flags,
                readFile: { _ throws(ExitFailure) in text })
        else { return }
        for word in arguments.normalized {
            let name = word.dropFirst(2).prefix { $0 != "=" }
            try hold(word.hasPrefix("--") && known.contains(String(name)), "\(word) was made of it")
        }
    }
}

/// Whole command lines as ArgumentParser takes them: refused or read, never a trap in a flag's own type.
private final class CommandLineTarget: FuzzTarget {
    let maximumBytes = 512
    let words = FlagWordsTarget().words
    let seeds =
        FlagWordsTarget().seeds + bytes("status\0--json", "lease\0reserve\0 10.66.3.0/24", "network\0set\0{}")

    func run(_ bytes: [UInt8]) throws(FuzzFailure) {
        let words = bytes.split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
        guard
            let line = try? CommandLineWords(
                words, environment: [:], readFile: { path throws(ExitFailure) in "" })
        else { return }
        _ = try? Twilld.parseAsRoot(line.words)
    }
}

private struct Fixed: Observable {
    func capture(_ request: CaptureRequest) -> Capture? { nil }

    func answer(path: String) -> HTTPAnswer? { HTTPAnswer(status: .ok, body: "ok\n") }
}

/// What a client sends to the status socket, cut off wherever it ends: an answer, or the end of the connection.
private final class RequestTarget: FuzzTarget {
    let maximumBytes = 20_000
    let words =
        oddValues
        + bytes(
            "\r\n", "\r\n\r\n", "GET ", "HEAD ", "POST ", " HTTP/1.1", " HTTP/9.9",
            "Transfer-Encoding: chunked\r\n",
            "Content-Length: 18446744073709551616\r\n", "Content-Length: -1\r\n", "Upgrade: h2c\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "ffffffffffffffff\r\n")
    let seeds = bytes(
        "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "HEAD /metrics HTTP/1.0\r\n\r\n",
        "GET /status?x HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "POST /status HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
        "GET /readyz HTTP/1.1\r\n" + String(repeating: "X-Long: aaaaaaaaaaaaaaaaaaaaaaaa\r\n", count: 300)
            + "\r\n")
    private let path: String

    init(path: String) { self.path = path }

    func run(_ bytes: [UInt8]) throws(FuzzFailure) {
        let answer = try exchange(bytes)
        try hold(
            answer.isEmpty || answer.starts(with: Array("HTTP/1.1 ".utf8)),
            "the answer is \(answer.prefix(40))")
        let healthy = try exchange(Array("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".utf8))
        try hold(healthy.starts(with: Array("HTTP/1.1 200".utf8)), "the next one is not answered")
    }

    private func exchange(_ request: [UInt8]) throws(FuzzFailure) -> [UInt8] {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8.prefix($0.count - 1)) }
        let connected = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) == 0
            }
        }
        try hold(connected, "no connection is taken")
        // The server may have closed before all was sent.
        _ = send(descriptor, request, request.count, Int32(MSG_NOSIGNAL))
        shutdown(descriptor, Int32(SHUT_WR))
        var answer: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = recv(descriptor, &buffer, buffer.count, 0)
            guard count > 0 else { return answer }
            answer += buffer[..<count]
        }
    }
}

@Suite struct DaemonFuzzTests {
    @Test func wordsOfACommandLine() throws { try fuzz(NamedFuzzTarget("flags") { FlagWordsTarget() }) }

    @Test func configurationFiles() throws {
        try fuzz(NamedFuzzTarget("config-file") { ConfigurationFileTarget() })
    }

    @Test func commandLines() throws { try fuzz(NamedFuzzTarget("command-line") { CommandLineTarget() }) }

    @Test func requests() async throws {
        let server = ObservationServer(Fixed())
        let path = "/tmp/twill-test-\(getpid())-\(UInt32.random(in: 0...UInt32.max))/twilld.sock"
        let socket = try await onThread { try StatusSocket.open(at: path) }
        try await server.listen(socket)
        defer { rmdir(String(path.dropLast("/twilld.sock".count))) }
        let result = Result { try fuzz(NamedFuzzTarget("http") { RequestTarget(path: path) }) }
        await onThread { socket.removeName() }
        await server.stop()
        try result.get()
    }
}
