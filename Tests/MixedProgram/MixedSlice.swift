import FoundationEssentials
import Glibc
import Kit
import NetworkNamespaces

/// What `traffic inject` sent.
struct Injection: Decodable {
    let datagrams: Int
    /// Errors of ICMP that the node answered with.
    let answers: Int
    let flow: Int
    /// How many datagrams went out for each counter, by its name; and `packets_good` and `packets_corrupt`.
    let expected: [String: Int]
}

/// Some seconds of all traffic at once, with a seed of their own.
final class MixedSlice {
    let number: Int
    let mixed: Mixed
    let seed: Int
    /// Whether the third node leaves and joins meanwhile.
    let leaves: Bool
    /// Every third slice is light, so that nothing has to be dropped, and each datagram must arrive.
    private let bulkStreams: Int
    private let underlay: Lab.Underlay

    // What came of it.
    /// What was sent from one pod to another: "1-2".
    private(set) var sent: [String: CheckedSending] = [:]
    /// What each pod received, the first at index 0.
    private(set) var received: [CheckedReceipt] = []
    /// What was injected from a node to another, 0 for the stranger: "0-1".
    private(set) var injected: [String: Injection] = [:]
    private(set) var streams: [IperfReport.Datagrams] = []
    private(set) var pings: [String] = []
    /// What each node counted.
    private(set) var counts: [NodeCounts] = []
    private(set) var nudges = 0
    /// What the kernel dropped outside of twilld, by its place.
    private(set) var drops: [String: Int] = [:]
    /// Corrupt packets that each pod's kernel found: of UDP and of TCP.
    private(set) var corrupt: [(datagrams: Int, segments: Int)] = []

    init(_ number: Int, of mixed: Mixed) {
        self.number = number
        self.mixed = mixed
        seed = mixed.options.seed + number
        underlay = number % 2 == 0 ? .plain : .offloading
        leaves = (number + 1) / 2 % 2 == 1
        bulkStreams = number % 3 * 2
    }

    private var seconds: Int { mixed.options.sliceSeconds }
    private func pod(_ number: Int) -> LabPod { mixed.pods[number - 1] }

    func run() async throws {
        try await mixed.lab.setUnderlay(underlay)
        let before = try await mixed.rest()
        let dropsBefore = try await mixed.kernelDrops()
        let corruptBefore = try await corruptPackets()
        var receivers: [LabProcess] = []
        for pod in mixed.pods {
            receivers.append(
                try await pod.receiveChecked(
                    at: pod.address, port: Mixed.trafficPort, seed: seed, by: mixed.options.traffic))
        }
        try await carryTraffic()
        // What is still on its way arrives, or is never seen.
        let after = try await mixed.rest()
        for receiver in receivers { receiver.signal(SIGTERM) }
        for (index, receiver) in receivers.enumerated() {
            // It ends with 1 where something came corrupt or late, which its report tells.
            _ = try await receiver.exitStatus(seconds: 60)
            received.append(try JSONDecoder().decode(CheckedReceipt.self, from: Data(receiver.output.utf8)))
            if index == 2, received[2].corrupt > 0 || received[2].behind > mixed.lateLimit {
                mixed.fault("pod 3 received \(received[2].corrupt) corrupt, \(received[2].behind) late")
            }
        }
        counts = zip(after.nodes, before.nodes).map { $0 - $1 }
        nudges = after.nudges
        drops = try await mixed.kernelDrops().merging(dropsBefore) { $0 - $1 }.filter { $0.value > 0 }
        corrupt = zip(try await corruptPackets(), corruptBefore).map {
            ($0.datagrams - $1.datagrams, $0.segments - $1.segments)
        }
        judge()
        tell()
    }

    private func corruptPackets() async throws -> [(datagrams: Int, segments: Int)] {
        var all: [(datagrams: Int, segments: Int)] = []
        for pod in mixed.pods {
            let counters = try await pod.kernelCounters()
            all.append((counters["UdpInCsumErrors"] ?? 0, counters["TcpInCsumErrors"] ?? 0))
        }
        return all
    }

    // MARK: Traffic

    /// All of it at once, to its end.
    private func carryTraffic() async throws {
        let senders = try await startSenders()
        let injectors = try await startInjectors()
        let measurements = try await startMeasurements()
        var echoes: [LabProcess] = []
        for size in [56, 1444, 8000] {
            echoes.append(
                try await pod(1).launch(
                    "ping -q -i 0.02 -w \(seconds) -s \(size) -p a55a \(pod(2).address)"))
        }
        if leaves {
            try await Task.sleep(for: .milliseconds(250 * seconds))
            try await mixed.leave(3)
            try await Task.sleep(for: .milliseconds(250 * seconds))
            try await mixed.join(3)
        }
        for (name, sender) in senders {
            sent[name] = try await report(of: sender, "send-\(name)", CheckedSending.self)
        }
        for (name, injector) in injectors {
            injected[name] = try await report(of: injector, "inject-\(name)", Injection.self)
        }
        for (name, measurement) in measurements {
            let report = try await report(of: measurement, "iperf-\(name)", IperfReport.self)
            streams += report?.streams ?? []
        }
        for echo in echoes {
            try await expectEnd(of: echo, "ping")
            pings.append(echo.output + echo.errors)
        }
    }

    private func startSenders() async throws -> [(String, LabProcess)] {
        let rate = bulkStreams == 0 ? 1_500 : 6_000
        var senders: [(String, LabProcess)] = []
        for (from, to, flow, words) in [
            (1, 2, 100, "--rate \(rate) --streams \(bulkStreams)"),
            (2, 1, 200, "--rate \(rate) --streams \(bulkStreams)"),
            (1, 3, 300, "--rate 1000 --streams 1 --talkers 2"),
            (3, 1, 400, "--rate 1000 --streams 0 --talkers 2"),
        ] {
            let process = try await pod(from).sendChecked(
                to: pod(to).address, port: Mixed.trafficPort, seed: seed, by: mixed.options.traffic,
                "--seconds \(seconds) --first-flow \(flow) \(words)")
            senders.append(("\(from)-\(to)", process))
        }
        return senders
    }

    private func startInjectors() async throws -> [(String, LabProcess)] {
        let rate = mixed.options.rate
        var injectors: [(String, LabProcess)] = []
        for (from, to, flow, rate) in [
            (1, 2, 901, rate * 4 / 10), (2, 1, 902, rate * 4 / 10), (0, 2, 903, rate / 10),
            (0, 1, 904, rate / 10),
        ] {
            let host: any LabHost = from == 0 ? mixed.stranger : mixed.lab[from]
            // The good ones come from the other node's subnet; 77 is nobody's host number.
            let subnet = mixed.subnets[2 - to].split(separator: ".").prefix(3).joined(separator: ".")
            let process = try await host.launch(
                "\(mixed.options.traffic) inject --to \(mixed.lab[to].address):8285"
                    + " --inner-to \(pod(to).address):\(Mixed.trafficPort) --inner-from \(subnet).77 --flow \(flow)"
                    + " --rate \(rate) --seed \(seed) --seconds \(seconds) --mtu \(Mixed.mtu)"
                    + (from == 0 ? " --unknown" : ""))
            injectors.append(("\(from)-\(to)", process))
        }
        return injectors
    }

    private func startMeasurements() async throws -> [(String, LabProcess)] {
        let rates = bulkStreams == 0 ? ["10M", "50K", "2M"] : ["100M", "1M", "50M"]
        var measurements: [(String, LabProcess)] = []
        for (name, words) in [
            ("tcp", "-p 5201 -P 4 -b \(rates[0])"), ("many", "-p 5202 -u -P 16 -b \(rates[1]) -l 64"),
            ("large", "-p 5203 -u -b \(rates[2]) -l 1400"),
        ] {
            measurements.append(
                (name, try await pod(1).iperf(to: pod(2).address, "-t \(seconds) \(words)")))
        }
        return measurements
    }

    private func expectEnd(of process: LabProcess, _ name: String) async throws {
        let status = try await process.exitStatus(seconds: Double(seconds) + 180)
        if status != 0 {
            mixed.fault(
                "\(name) ended with \(status): \(process.errors.suffix(300))\(process.output.suffix(300))")
        }
    }

    /// What a program printed at its end; nil where that is not what it should be.
    private func report<Report: Decodable>(
        of process: LabProcess, _ name: String, _ type: Report.Type
    ) async throws -> Report? {
        try await expectEnd(of: process, name)
        let report = try? JSONDecoder().decode(Report.self, from: Data(process.output.utf8))
        if report == nil { mixed.fault("\(name) printed \(process.output.suffix(300))") }
        return report
    }

    private func tell() {
        let datagrams = received.reduce(0) { $0 + $1.datagrams }
        let bytes = received.reduce(0) { $0 + $1.streamBytes }
        let hundredths = (bytes + 5_000_000) / 10_000_000
        let places = drops.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }
        say(
            "  \("\(number)".right(3))  seed \("\(seed)".left(6)) \((underlay == .plain ? "plain" : "offload").left(7))"
                + " \(leaves ? "leave+join" : "three stay")  \((datagrams + 500) / 1_000) k datagrams and"
                + " \(hundredths / 100).\(hundredths % 100 < 10 ? "0" : "")\(hundredths % 100) GB in streams checked;"
                + " late \(received.reduce(0) { $0 + $1.behind }); lost \(lost("1-2")) + \(lost("2-1")); dropped \(places.isEmpty ? "nothing" : places.joined(separator: ", "))"
        )
    }
}
