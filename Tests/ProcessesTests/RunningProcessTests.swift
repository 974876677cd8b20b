import Addresses
import Glibc
import Testing

@testable import Processes

@Suite(.timeLimit(.minutes(1))) struct RunningProcessTests {
    /// A UDP socket of this process on a free port of an address.
    private static func socket(at address: IPv4Address) throws -> (descriptor: Int32, endpoint: Endpoint) {
        let descriptor = Glibc.socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var name = sockaddr_in()
        name.sin_family = sa_family_t(AF_INET)
        name.sin_addr.s_addr = address.networkBytes
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let isBound = withUnsafeMutablePointer(to: &name) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, size) == 0 && getsockname(descriptor, $0, &size) == 0
            }
        }
        try #require(isBound)
        return (descriptor, Endpoint(address: address, port: UInt16(bigEndian: name.sin_port)))
    }

    @Test func whoHasAPortIsNamed() throws {
        let (descriptor, endpoint) = try Self.socket(at: IPv4Address(127, 0, 0, 1))
        #expect(RunningProcess.holder(of: endpoint, .udp) == .current)
        #expect(RunningProcess.holder(of: endpoint, .tcp) == nil)
        #expect(
            RunningProcess.holder(of: Endpoint(address: IPv4Address.any, port: endpoint.port), .udp)
                == .current)
        let inode = try #require(FileIdentity(descriptor: descriptor)).inode
        #expect(RunningProcess.holders(ofSockets: [inode, .max]) == [inode: .current])
        close(descriptor)
        #expect(RunningProcess.holder(of: endpoint, .udp) == nil)
    }

    @Test func whoHasAFileOpenIsNamed() throws {
        let path = "/tmp/twill-processes-\(getpid())"
        let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        try #require(descriptor >= 0)
        defer { unlink(path) }
        let file = try #require(FileIdentity(path: path))
        #expect(FileIdentity(descriptor: descriptor) == file)
        #expect(RunningProcess.holder(ofFile: file, among: RunningProcess.all) == .current)
        #expect(RunningProcess.holder(ofFile: file, among: []) == nil)
        close(descriptor)
        #expect(RunningProcess.holder(ofFile: file, among: RunningProcess.all) == nil)
    }

    /// A process calls itself what it likes: a program's file name is enough.
    @Test func aNameSteersNoTerminal() throws {
        let path = "/tmp/\u{1b}[2J\u{202e}\n(x)"
        unlink(path)
        try #require(symlink("/bin/sleep", path) == 0)
        defer { unlink(path) }
        var child = pid_t()
        var words: [UnsafeMutablePointer<CChar>?] = [strdup("sleep"), strdup("60"), nil]
        defer { for word in words { free(word) } }
        try #require(posix_spawn(&child, path, nil, nil, &words, environ) == 0)
        defer {
            kill(child, SIGKILL)
            waitpid(child, nil, 0)
        }
        let process = RunningProcess(number: child)
        // It was made before the kernel has given it its name.
        while process.commandLine != ["sleep", "60"] { usleep(1000) }
        #expect(process.name == "?[2J??(x)")
        #expect(process.description == "?[2J??(x) (process \(child))")
    }

    @Test func whoIsNotThereHasNoName() {
        let nobody = RunningProcess(number: .max)
        #expect(nobody.name == nil && nobody.description == "process \(Int32.max)")
        #expect(nobody.commandLine.isEmpty && nobody.descriptors.isEmpty && !nobody.isInNetworkOfThisThread)
    }
}
