import Glibc
import NetworkNamespaces
import Testing

/// STATUS: whether an ADD would succeed.
@Suite struct StatusTests {
    /// Listens at a path until it goes.
    final class Listener {
        private let descriptor: Int32

        init(_ path: String) {
            descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
            var name = sockaddr_un()
            name.sun_family = sa_family_t(AF_UNIX)
            withUnsafeMutableBytes(of: &name.sun_path) { $0.copyBytes(from: Array(path.utf8)) }
            let size = socklen_t(MemoryLayout<sockaddr_un>.size)
            let result = withUnsafePointer(to: &name) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, size) }
            }
            #expect(result == 0 && listen(descriptor, 0) == 0)
        }

        deinit { close(descriptor) }
    }

    private func status(_ node: PluginNode) throws -> PluginNode.Answer {
        try node.call(
            "", node.configuration(version: "1.1.0"),
            environment: ["CNI_COMMAND": "STATUS", "CNI_PATH": node.directory + "/bin"])
    }

    @Test("ready where subnet.env stands and the daemon listens; the delegate is asked too")
    func ready() throws {
        let node = try PluginNode()
        let listener = Listener(node.directory + "/twilld.sock")
        // More callers than it takes are no reason.
        for _ in 0..<4 {
            let answer = try status(node)
            #expect(answer.status == 0 && answer.output == "", "\(answer.output)")
        }
        #expect(node.calls.suffix(2) == ["bridge VERSION  ", "bridge STATUS  "])
        #expect(node.read("seen.STATUS")?.contains(#""ranges":[[{"subnet":"10.244.3.0/24"}]]"#) == true)
        withExtendedLifetime(listener) {}
    }

    @Test("not ready without subnet.env")
    func noSubnet() throws {
        let node = try PluginNode(subnets: nil)
        let listener = Listener(node.directory + "/twilld.sock")
        let answer = try status(node)
        #expect(answer.status == 1 && answer.code == 50)
        #expect(answer.details == "check the twill pod of this node" && node.calls.isEmpty)
        withExtendedLifetime(listener) {}
    }

    @Test("not ready where the daemon was killed: its socket stands, and nobody is behind it")
    func killedDaemon() throws {
        let node = try PluginNode()
        _ = Listener(node.directory + "/twilld.sock")
        #expect(node.exists("twilld.sock"))
        let answer = try status(node)
        #expect(
            answer.code == 50 && answer.message.contains("does not answer at \(node.directory)/twilld.sock"))
        #expect(answer.details == "check the twill pod of this node" && node.calls.isEmpty)
    }

    @Test("ready without a socket: another daemon wrote subnet.env")
    func otherDaemon() throws {
        let node = try PluginNode()
        #expect(try status(node).status == 0)
    }

    @Test("not ready without the delegate, or with one that does not speak the version")
    func delegate() throws {
        let node = try PluginNode()
        try node.answer("VERSION", #"{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}"#)
        let old = try status(node)
        #expect(old.code == 50 && old.message == "the plugin bridge does not speak CNI 1.1.0")
        unlink(node.directory + "/bin/bridge")
        let gone = try status(node)
        #expect(gone.code == 50 && gone.message.contains("there is no plugin bridge in "))
    }

    @Test("what the delegate says of itself is passed on")
    func delegatesStatus() throws {
        let node = try PluginNode()
        try node.answer("STATUS", #"{"code":51,"msg":"full"}"#, status: 1)
        #expect(try status(node).output == #"{"code":51,"msg":"full"}"#)
    }
}
