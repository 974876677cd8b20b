import Addresses
import Foundation
import KubernetesClient
import KubernetesNodes
import KubernetesTesting
import Leases
import Logging

/// `twill-cluster-cost [--nodes N] [--bytes N]`: a node in a cluster of N nodes, whose objects have so many bytes
/// each. Prints what it asked of the API server and how many bytes that sent, how much memory the process took that has
/// the client alone, how long it took until the peers were known, and the CPU time of changes and of other events.
/// With `--url URL [--credentials DIRECTORY]` it is such a node, named `own`, at that API server.
@main
enum ClusterCostProgram {
    static func main() async throws {
        var (count, bytes) = (1000, 13_000)
        var url: String?
        var credentials = "/nowhere"
        var words = CommandLine.arguments.dropFirst()
        while let word = words.popFirst() {
            if word == "--url" || word == "--credentials" {
                let value = words.popFirst() ?? ""
                if word == "--url" { url = value } else { credentials = value }
                continue
            }
            guard let value = words.popFirst().flatMap({ Int($0) }), value >= 0 else {
                print("\(word) needs a number: --nodes N, --bytes N")
                exit(64)
            }
            switch word {
            case "--nodes": count = value
            case "--bytes": bytes = value
            default:
                print("\(word) is no option: --nodes, --bytes")
                exit(64)
            }
        }
        if let url {
            try await follow(url: url, credentials: credentials, count: count)
        } else {
            try serve(count: count, bytes: bytes)
        }
    }

    // MARK: The API server's process

    private static func record(_ index: Int, version: Int = 0) -> NodeRecord {
        var annotations = NodeAnnotations()
        annotations.isManaged = "true"
        annotations.backendType = ""
        annotations.backendData = "null"
        annotations.publicIP = "\(IPv4Address(bits: 0xC612_0000 + UInt32(index + 2 + version * 20_000)))"
        return NodeRecord(
            name: "node-\(index)", uid: "uid-\(index)",
            podCIDRs: ["\(IPv4Address(bits: 0x0A00_0000 + UInt32(index) << 8))/24"], annotations: annotations)
    }

    private static func serve(count: Int, bytes: Int) throws {
        let server = try FakeAPIServer(certificates: nil)
        server.state.withLock { $0.filling = bytes }
        server.put(NodeRecord(name: "own", uid: "own", podCIDRs: ["10.255.0.0/24"]))
        for index in 0..<count { server.put(record(index)) }
        func report(_ what: String) {
            let (requests, sent) = server.state.withLock { state in
                defer {
                    state.requests = []
                    state.bytesSent = 0
                }
                return (state.requests, state.bytesSent)
            }
            let kinds = Dictionary(grouping: requests) { "\($0.kind)" }.mapValues(\.count).sorted {
                $0.key < $1.key
            }
            print(
                "\(what): \(requests.count) requests \(kinds.map { "\($0.key) \($0.value)" }), \(sent) bytes")
        }
        let child = Process()
        child.executableURL = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath()
        child.arguments = ["--url", "http://127.0.0.1:\(server.port)", "--nodes", "\(count)"]
        let (input, output) = (Pipe(), Pipe())
        child.standardInput = input
        child.standardOutput = output
        try child.run()
        func line() -> String {
            var line: [UInt8] = []
            while let byte = try? output.fileHandleForReading.read(upToCount: 1)?.first, byte != 0x0A {
                line.append(byte)
            }
            return String(decoding: line, as: UTF8.self)
        }
        print("\(count) nodes of \(bytes) bytes: " + line())
        report("start")
        // A hundred nodes have another address, and what kubelets say beside that, which is nothing of ours.
        for index in 0..<min(100, count) { server.put(record(index, version: 1)) }
        print("100 changes: " + line())
        report("100 changes")
        for index in 0..<min(1000, count) { server.put(record(index, version: index < 100 ? 1 : 0)) }
        server.put(
            NodeRecord(
                name: "last", uid: "last", podCIDRs: ["10.254.0.0/24"], annotations: record(1).annotations))
        print("\(min(1000, count)) events that change nothing: " + line())
        report("\(min(1000, count)) such events")
        try input.fileHandleForWriting.close()
        child.waitUntilExit()
        server.stop()
        print(try idleHour(nodes: count, bytes: bytes))
    }

    /// What a node asks in an hour in which nothing happens but bookmarks and the ends of watches, by a machine under a
    /// simulated clock, and what the server sends it by the kubelets' reports of every five minutes.
    private static func idleHour(nodes count: Int, bytes: Int) throws -> String {
        let settings = ClusterMachine.Settings(
            apiName: "api", nodeName: "own", keys: try AnnotationKeys(prefix: "flannel.alpha.coreos.com"),
            networkConfigurationPath: "net-conf.json", keptPath: "kept")
        let start = ContinuousClock.now
        var machine = ClusterMachine(settings: settings, seed: 1, now: start)
        let own = NodeRecord(name: "own", uid: "own", resourceVersion: "1", podCIDRs: ["10.255.0.0/24"])
        var requests = 0
        var watch = (number: 0, end: start)
        func take(_ inputs: [ClusterMachine.Input], at now: ContinuousClock.Instant) {
            for action in machine.handle(inputs, now: now) {
                switch action {
                case .watch(_, let number, let seconds):
                    requests += 1
                    watch = (number, now + .seconds(seconds))
                case .readOwnNode, .list, .patch: requests += 1
                default: break
                }
            }
        }
        take([.kept(nil), .networkFile(.text(#"{"Network":"10.0.0.0/8"}"#))], at: start)
        take([.ownNode(.success(own))], at: start)
        take([.page(.success(NodePage(nodes: [own], version: "1")))], at: start)
        requests = 0
        for second in 1...3600 {
            let now = start + .seconds(second)
            if watch.end <= now {
                take([.watchEnded(nil, watch: watch.number)], at: now)
            } else if second.isMultiple(of: 60) {
                take([.events([.bookmark(version: "1")], watch: watch.number)], at: now)
            } else {
                take([.timer], at: now)
            }
        }
        let sent = 60 * 250 + count * 12 * bytes
        return
            "idle for an hour: \(requests) requests (watches), 60 bookmarks, \(count * 12) reports of kubelets,"
            + " about \(sent) bytes"
    }

    // MARK: The node's process

    private static func follow(url: String, credentials: String, count: Int) async throws {
        let directory = NSTemporaryDirectory() + "cluster-cost-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        try #"{"Network":"10.0.0.0/8"}"#.write(
            toFile: directory + "/net-conf.json", atomically: true, encoding: .utf8)
        var options = KubernetesOptions()
        options.nodeName = "own"
        options.apiURL = url
        options.serviceAccountDirectory = credentials
        options.networkConfigurationPath = directory + "/net-conf.json"
        options.stateDirectory = directory
        let before = status("VmRSS")
        let start = ContinuousClock.now
        let cluster = try cluster(options)
        let running = Task { try await cluster.run() }
        await cluster.announce(NodeAnnouncement(publicAddress: IPv4Address(203, 0, 113, 1)))
        var networks = cluster.networks.makeAsyncIterator()
        while let network = await networks.next(), network.peers.count < count {}
        say(
            "peers after \(ContinuousClock.now - start), CPU \(cpu()), memory \(before) before, \(status("VmRSS")) now,"
                + " \(status("VmHWM")) at most")
        func changed(_ network: KnownNetwork) -> Int {
            network.peers.count { ($0.endpoint.address.v4?.bits ?? 0) >= 0xC612_0000 + 20_000 }
        }
        let changeStart = cpuSeconds()
        while let network = await networks.next(), changed(network) < min(100, count) {}
        say("CPU \(cpuSeconds() - changeStart) s, \(status("VmHWM")) at most")
        let eventStart = cpuSeconds()
        while let network = await networks.next(), network.peers.count + network.skipped.count <= count {}
        say("CPU \(cpuSeconds() - eventStart) s, \(status("VmRSS")) now, \(status("VmHWM")) at most")
        while readLine() != nil {}
        running.cancel()
        try? await running.value
        try? FileManager.default.removeItem(atPath: directory)
    }

    private static func cluster(_ options: KubernetesOptions) throws -> KubernetesCluster {
        try KubernetesCluster(
            options: options, logger: Logger(label: "none", factory: { _ in SwiftLogNoOpLogHandler() }))
    }

    private static func say(_ line: String) {
        print(line)
        fflush(nil)
    }

    private static func status(_ key: String) -> String {
        let text = (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)) ?? ""
        let line = text.split(separator: "\n").first { $0.hasPrefix(key + ":") }
        return line.map { "\((Int($0.split(separator: " ").dropLast().last ?? "") ?? 0) / 1024) MiB" } ?? "?"
    }

    private static func cpuSeconds() -> Double { Double(clock()) / Double(CLOCKS_PER_SEC) }
    private static func cpu() -> String { "\(cpuSeconds()) s" }
}
