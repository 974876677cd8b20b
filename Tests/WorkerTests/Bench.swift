import Addresses
import CLinux
import Counters
import Engines
import Forwarding
import Glibc
import PacketHeaders
import Testing

@testable import Worker

/// A worker over a simulated kernel: this node is 10.66.1.0/24, its peers 10.66.2.0/24 … behind 192.168.0.2 ….
struct Bench: ~Copyable {
    let kernel: SimulatedKernel
    let memory: PacketMemory
    let counters = CounterBlock.allocate()
    let peerCounters = PeerCounterBlock.allocate()
    let records = WorkerRecords.allocate()
    let publication = ForwardingPublication(workers: 1)
    var worker: Worker<SimulatedEngine>

    static let local = IPv4Prefix("10.66.1.0/24")!
    static func subnet(_ peer: Int) -> IPv4Prefix { IPv4Prefix("10.66.\(peer).0/24")! }
    static func underlay(_ peer: Int) -> IPv4Address { IPv4Address("192.168.0.\(peer)")! }
    static func endpoint(_ peer: Int) -> Endpoint { Endpoint(address: underlay(peer), port: 8285) }
    /// - Parameter paced: which peers take no bursts.
    static func routes(peers: Range<Int> = 2..<6, mtu: Int = 1472, paced: Set<Int> = []) -> ForwardingRoutes {
        ForwardingRoutes(
            localIPv4: local, mtu: mtu,
            peers: peers.map {
                ForwardingPeer(
                    ipv4: subnet($0), endpoint: endpoint($0), counterSlot: UInt16($0),
                    takesBursts: !paced.contains($0))
            })
    }

    init(
        seed: UInt64 = 1, segmentLimit: Int = 64, acceptsAnySource: Bool = false,
        coalesces: Bool = true,
        busyPollMicroseconds: Int = 0, minimumWaitMicroseconds: Int = 0, tuning: Tuning = Tuning(),
        kernelPathTraffic: KernelPathTraffic? = nil, index: Int = 0
    ) {
        let limits = try! WorkerLimits(tuning)
        kernel = SimulatedKernel(seed: seed)
        memory = PacketMemory(limits, hugePages: false)!
        publication.publish(Bench.routes())
        worker = Worker(
            engine: SimulatedEngine(kernel: kernel, memory: memory, entries: limits.ringEntries),
            memory: memory,
            limits: limits,
            settings: WorkerSettings(
                tunnelAddress: IPv4Address("10.66.1.0")!, acceptsAnySource: acceptsAnySource,
                segmentLimit: segmentLimit, coalesces: coalesces ? .all : [],
                busyPollMicroseconds: busyPollMicroseconds,
                minimumWaitMicroseconds: minimumWaitMicroseconds),
            counters: counters, peerCounters: peerCounters, records: records, reader: publication.reader(0),
            kernelPathTraffic: kernelPathTraffic, index: index)
    }

    deinit {
        memory.deallocate()
        counters.deallocate()
        peerCounters.deallocate()
        records.deallocate()
    }

    mutating func fromPod(_ packet: [UInt8], header: [UInt8] = [UInt8](repeating: 0, count: 10)) {
        kernel.tunnelQueue.append(header + packet)
    }

    mutating func fromPeer(_ peer: Int, _ payload: [UInt8], segmentBytes: Int = 0) {
        kernel.socketQueue.append(
            SimulatedKernel.Datagrams(
                source: Bench.endpoint(peer), segmentBytes: segmentBytes, payload: payload))
    }

    /// Whether nothing is under way or in line.
    var isDrained: Bool {
        kernel.tunnelQueue.isEmpty && kernel.socketQueue.isEmpty && worker.engine.isIdle
            && worker.waitingReads.count == 0 && worker.pacedReads.count == 0
            && worker.received.waitingCount == 0
    }

    mutating func run(rounds: Int = 8) {
        for _ in 0..<rounds { #expect(worker.round() == 0) }
    }

    /// Rounds until nothing is under way or in line, and further ones bring nothing: in the first of those goes out
    /// what a full last burst left open. Late operations hold back those behind them, so that can take many rounds.
    mutating func drain() {
        let limit = 50_000
        var rounds = 0
        var rests = 0
        while rests < 4, rounds < limit {
            #expect(worker.round() == 0)
            rests = isDrained ? rests + 1 : 0
            rounds += 1
        }
        #expect(rounds < limit)
    }
}

func pod(_ node: Int, _ host: Int = 2) -> IPv4Address { IPv4Address("10.66.\(node).\(host)")! }
