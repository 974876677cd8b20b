import Addresses
import Benchmark
import CAllocationCount
import CLinux
import CRingLoop
import Forwarding
import PacketHeaders
import Offload

// What a packet costs in each pure part of the data plane, and a round trip through the ring. Times are for reading; the
// thresholds, in Thresholds/, are on counts, which are the same on every machine: `tools/check-benchmarks`.

/// Of each iteration.
let allocations = BenchmarkMetric.custom("allocations")
let sends = BenchmarkMetric.custom("sends")
let vectors = BenchmarkMetric.custom("vectors")
let writes = BenchmarkMetric.custom("writes")
let systemCalls = BenchmarkMetric.custom("systemCalls")
/// Megabytes a second.
let speed = BenchmarkMetric.custom("speed", polarity: .prefersLarger, useScalingFactor: false)

extension Benchmark {
    /// Measures `body`, and counts the allocations of it.
    func measureCounting(_ body: () -> Void) {
        startMeasurement()
        allocation_count_begin()
        body()
        let count = allocation_count_end()
        stopMeasurement()
        measurement(allocations, Int(count))
    }
}

let benchmarks: @Sendable () -> Void = {
    Benchmark.defaultConfiguration = .init(
        metrics: [.wallClock, .throughput, allocations], scalingFactor: .kilo, maxDuration: .seconds(1))

    for bytes in [40, 576, 1460, 9000, 65_535] {
        Benchmark(
            "checksum-of-\(bytes)-bytes",
            configuration: .init(metrics: [.wallClock, .throughput, allocations, speed])
        ) { benchmark in
            let memory = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 64)
            defer { memory.deallocate() }
            memory.initializeMemory(as: UInt8.self, repeating: 0xA5, count: bytes)
            let start = ContinuousClock.now
            benchmark.measureCounting {
                for _ in benchmark.scaledIterations {
                    var sum = InternetSum()
                    sum.add(memory, count: bytes)
                    blackHole(sum.checksum)
                }
            }
            let seconds = (ContinuousClock.now - start) / .seconds(1)
            let megabytes = Double(bytes * benchmark.scaledIterations.count) / 1e6
            benchmark.measurement(speed, Int(megabytes / seconds))
        }
    }

    Benchmark(
        "segment-a-super-packet-of-45",
        configuration: .init(metrics: [.wallClock, .throughput, allocations, sends, vectors])
    ) {
        benchmark in
        let count = 45
        let (header, packet, length) = TestTraffic.superPacket(segments: count)
        let arena = UnsafeMutableRawPointer.allocate(
            byteCount: count * SegmentPlan.headerStride, alignment: 64)
        let gathered = UnsafeMutablePointer<iovec>.allocate(capacity: 2 * count)
        defer {
            packet.deallocate()
            arena.deallocate()
            gathered.deallocate()
        }
        var sendCount = 0
        var vectorCount = 0
        benchmark.measureCounting {
            for _ in benchmark.scaledIterations {
                guard
                    case .superPacket(let plan) = OffloadedPacket.examine(
                        header: header, packet: packet, length: length)
                else { return benchmark.error("the super-packet is refused") }
                let longest = SuperPacketLimits.sendBytes / plan.segmentBytes
                for start in stride(from: 0, to: plan.segmentCount, by: longest) {
                    let segments = start..<min(start + longest, plan.segmentCount)
                    sendCount += 1
                    plan.writeHeaders(of: segments, packet: packet, into: arena)
                    vectorCount += plan.writeVectors(
                        of: segments, packet: packet, arena: arena, into: gathered)
                }
                blackHole(gathered)
            }
        }
        benchmark.measurement(sends, sendCount)
        benchmark.measurement(vectors, vectorCount)
    }

    Benchmark(
        "coalesce-a-burst-of-45",
        configuration: .init(metrics: [.wallClock, .throughput, allocations, writes])
    ) {
        benchmark in
        let count = 45
        let stride = 2048
        let arrived = TestTraffic.segments(count, stride: stride)
        defer { arrived.deallocate() }
        var coalescer = Coalescer(slotLimit: 512, merges: .all)
        var writeCount = 0
        // `close` writes into the first segment's header, so that only the first round finds the burst as it arrived.
        let first = UnsafeMutableRawPointer.allocate(byteCount: TestTraffic.headerBytes, alignment: 64)
        defer { first.deallocate() }
        first.copyMemory(from: arrived, byteCount: TestTraffic.headerBytes)
        benchmark.measureCounting {
            for _ in benchmark.scaledIterations {
                arrived.copyMemory(from: first, byteCount: TestTraffic.headerBytes)
                for index in 0..<count {
                    blackHole(
                        coalescer.add(
                            arrived + index * stride,
                            length: TestTraffic.headerBytes + TestTraffic.segmentPayloadBytes))
                }
                coalescer.close()
                writeCount += coalescer.slotCount
                coalescer.reset()
            }
        }
        benchmark.measurement(writes, writeCount)
    }

    for peers in [10, 1000, 65_536] {
        Benchmark("look-up-one-of-\(peers)-peers") { benchmark in
            let snapshot = ForwardingSnapshot.build(
                ForwardingRoutes(
                    peers: (0..<peers).map { index in
                        ForwardingPeer(
                            ipv4: IPv4Prefix(IPv4Address(bits: 0x0A00_0000 + UInt32(index) << 8), length: 24),
                            endpoint: Endpoint(
                                address: IPv4Address(bits: 0xC000_0200 + UInt32(index)), port: 8285))
                    }))
            defer { snapshot.deallocate() }
            // A linear congruential walk over the peers: no two lookups in a row share a cache line.
            var state: UInt32 = 1
            benchmark.measureCounting {
                for _ in benchmark.scaledIterations {
                    state = state &* 1_664_525 &+ 1_013_904_223
                    blackHole(
                        snapshot.peer(
                            holding: IPv4Address(bits: 0x0A00_0002 + (state >> 8) % UInt32(peers) << 8))
                    )
                }
            }
        }
    }

    Benchmark(
        "ring-a-datagram-to-itself-and-back",
        configuration: .init(metrics: [.wallClock, .throughput, allocations, systemCalls])
    ) { benchmark in
        guard let loop = ring_loop_make() else { return benchmark.error("no ring here") }
        defer { ring_loop_end(loop) }
        // Arms what stands.
        guard ring_loop_round_trip(loop) else { return benchmark.error("the ring gave up") }
        let before = ring_loop_system_calls(loop)
        benchmark.measureCounting {
            for _ in benchmark.scaledIterations where !ring_loop_round_trip(loop) {
                benchmark.error("the ring gave up")
            }
        }
        benchmark.measurement(systemCalls, ring_loop_system_calls(loop) - before)
    }
}
