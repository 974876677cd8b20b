import FoundationEssentials
import Glibc
import Host
import Kit
import LeaseDirectory
import NetworkNamespaces
import Node
import Synchronization
import Testing

@testable import NodeDaemon

/// Where the node of `inThisProcess` writes; nil in every other run of the tests.
private let nodeDirectory = getenv("TWILL_TEST_NODE_DIRECTORY").map { String(cString: $0) }

/// The daemon as a library: a plain value in, no command line anywhere.
@Suite struct NodeProcessTests {
    /// A network namespace belongs to threads, and a daemon has many; so the node runs in this program once more,
    /// which is started on a thread of the namespace.
    @Test(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
    func aNodeRunsFromAPlainValue() async throws {
        let lab = try await Lab(nodes: 1)
        let program = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        let output = try await lab[1].run(
            "TWILL_TEST_NODE_DIRECTORY=\(lab.directory) \(program) --testing-library swift-testing"
                + " --filter inThisProcess")
        #expect(output.contains("the node ended as it was told to"), "\(output)")
    }

    @Test(.enabled(if: nodeDirectory != nil, "is run by aNodeRunsFromAPlainValue"))
    func inThisProcess() async throws {
        let directory = try #require(nodeDirectory)
        var options = NodeOptions(origin: .store(.directory(path: "\(directory)/store")))
        options.lease.subnetFile = "\(directory)/subnet.env"
        options.lease.stateDirectory = "\(directory)/state"
        options.tunnel.interfaceName = "plain0"
        options.tunnel.mtu = 1400
        options.observation.statusSocket = "\(directory)/twilld.sock"
        options.ineffective = [NodeOptions.Ineffective(name: "colour", advice: "remove it")]
        let lines = Mutex<[String]>([])
        let statuses = Mutex<[Int32]>([])
        let node = NodeProcess(options) { line in lines.withLock { $0.append(line) } }
        func logged(_ text: String) -> Bool { lines.withLock { $0.contains { $0.contains(text) } } }

        let running = Task { try await node.run { status in statuses.withLock { $0.append(status) } } }
        let client = StatusClient(socketPath: options.observation.statusSocket)
        let status = try await until("ready", { lines.withLock { $0.joined(separator: "\n") } }) {
            await onThread { try? client.status() }.flatMap { $0.isReady ? $0 : nil }
        }
        #expect(status.processIdentifier == getpid())
        #expect(status.tunnel?.interface == "plain0" && status.tunnel?.mtu == 1400)
        let subnetFile = options.lease.subnetFile
        let file = try await onThread { try SubnetFileValues(path: subnetFile) }
        #expect(file?.subnet.map { "\($0)" } == status.lease?.subnet)
        #expect(if_nametoindex("plain0") != 0)
        #expect(logged("warning event=flag_without_effect detail=\"remove it\" flag=colour"))
        // Nothing was read from anywhere that could be read again.
        kill(getpid(), SIGHUP)
        _ = try await until("an answer to SIGHUP") { logged("event=nothing_to_reload") ? true : nil }

        kill(getpid(), SIGTERM)
        try await running.value
        #expect(statuses.withLock { $0 } == [0])
        // The device stays, for the next start.
        #expect(if_nametoindex("plain0") != 0)
        #expect(logged("event=stopped"))
        #expect(!FileManager.default.fileExists(atPath: options.observation.statusSocket))
        // The lease and subnet.env stay, for the next start.
        #expect(try await onThread { try SubnetFileValues(path: subnetFile) }?.subnet != nil)

        // Once more, with nothing to be left; whoever runs it cancels it.
        options.succession.stop = .remove
        let leaving = NodeProcess(options) { line in lines.withLock { $0.append(line) } }
        let again = Task { try await leaving.run() }
        let second = try await until("ready again", { lines.withLock { $0.joined(separator: "\n") } }) {
            await onThread { try? client.status() }.flatMap { $0.isReady ? $0 : nil }
        }
        #expect(second.lease?.subnet == status.lease?.subnet)
        again.cancel()
        try await again.value
        #expect(if_nametoindex("plain0") == 0)
        print("the node ended as it was told to")
    }
}
