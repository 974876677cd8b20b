// The internals of modules are seen in builds with -enable-testing alone: debug builds, and those of tools/fuzz.
#if DEBUG || FUZZING
    import Addresses
    import Counters
    import Engines
    import Forwarding
    import PacketHeaders

    @testable import Worker

    /// A worker on the simulated kernel: node 1 of a network whose peers are 2 to 5.
    struct WorkerBench: ~Copyable {
        let kernel = SimulatedKernel(seed: 1)
        let counters = CounterBlock.allocate()
        private let memory: PacketMemory
        private let publication = ForwardingPublication(workers: 1)
        private var worker: Worker<SimulatedEngine>

        static func pod(_ node: Int, host: Int = 2) -> IPv4Address {
            IPv4Address(bits: UInt32(0x0A42_0000 | node << 8 | host))
        }
        static func underlay(_ node: Int) -> IPv4Address { IPv4Address(bits: UInt32(0xC0A8_0000 | node)) }
        static func subnet(_ node: Int) -> IPv4Prefix { IPv4Prefix(pod(node, host: 0), length: 24) }

        init() {
            guard let limits = try? WorkerLimits(Tuning()),
                let memory = PacketMemory(limits, hugePages: false)
            else {
                fatalError("no memory for a worker")
            }
            self.memory = memory
            publication.publish(
                ForwardingRoutes(
                    localIPv4: WorkerBench.subnet(1), mtu: 1472,
                    peers: (2..<6).map {
                        ForwardingPeer(
                            ipv4: WorkerBench.subnet($0),
                            endpoint: Endpoint(address: WorkerBench.underlay($0), port: 8285),
                            counterSlot: UInt16($0), takesBursts: $0 != 5)
                    }))
            worker = Worker(
                engine: SimulatedEngine(kernel: kernel, memory: memory, entries: limits.ringEntries),
                memory: memory, limits: limits,
                settings: WorkerSettings(
                    tunnelAddress: WorkerBench.pod(1, host: 0), acceptsAnySource: false, segmentLimit: 64,
                    coalesces: .all, busyPollMicroseconds: 0, minimumWaitMicroseconds: 0),
                counters: counters, peerCounters: PeerCounterBlock.allocate(),
                records: WorkerRecords.allocate(), reader: publication.reader(0))
        }

        /// Rounds until nothing is under way or waits.
        mutating func drain() throws(FuzzFailure) {
            var rests = 0
            for _ in 0..<50_000 {
                try hold(worker.round() == 0, "the worker gave up")
                let isDrained =
                    kernel.tunnelQueue.isEmpty && kernel.socketQueue.isEmpty && worker.engine.isIdle
                    && worker.waitingReads.count == 0 && worker.received.waitingCount == 0
                rests = isDrained ? rests + 1 : 0
                if rests == 4 { return }
            }
            throw FuzzFailure("the worker never rests")
        }

        func sum(_ prefix: String) -> UInt64 {
            Counter.allCases.reduce(0) { $1.name.hasPrefix(prefix) ? $0 + counters[$1] : $0 }
        }

        static func flaw(_ packet: ArraySlice<UInt8>, verifyingChecksum: Bool) -> IPPacketFlaw? {
            var bytes = Array(packet)
            return bytes.withUnsafeMutableBytes {
                guard let start = $0.baseAddress else { return .tooShort }
                return IPPacket.flaw(start, length: packet.count, verifyingChecksum: verifyingChecksum)
            }
        }

        static func address(_ packet: some Collection<UInt8>, at offset: Int) -> IPv4Address {
            IPv4Address(bits: packet.dropFirst(offset).prefix(4).reduce(0) { $0 << 8 | UInt32($1) })
        }
    }

    /// Packets between pods of the simulated network, of some kinds.
    private func podPackets(from source: IPv4Address, to destination: IPv4Address) -> [[UInt8]] {
        let payload = [UInt8](repeating: 0x5A, count: 200)
        return [
            Packets.udp(source, destination, payload: payload), Packets.udp(source, destination, payload: []),
            Packets.tcp(source, destination, sequence: 1000, payload: payload),
            Packets.tcp(source, destination, sequence: 1200, flags: 0x18, payload: payload),
            Packets.ipv4(source, destination, transport: 1, payload: [8, 0, 0, 0, 1, 1, 1, 1]),
            Packets.udp(source, destination, timeToLive: 1, payload: payload),
            Packets.udp(source, destination, payload: [UInt8](repeating: 1, count: 1444)),
        ]
    }

    /// Frames of the TUN device, each a length of two bytes, a virtio-net header and a packet: counted, or sent as
    /// whole packets to the right peer.
    final class OutboundTarget: FuzzTarget {
        let words = reservedAddresses
        let maximumBytes = 16_384
        private var bench = WorkerBench()

        var seeds: [[UInt8]] {
            let packets = (0...7).flatMap { podPackets(from: WorkerBench.pod(1), to: WorkerBench.pod($0)) }
            let plain = packets.map { OutboundTarget.framed([UInt8](repeating: 0, count: 10) + $0) }
            let offloaded = packets.filter { $0.count > 100 }.map {
                OutboundTarget.framed(
                    [1, $0[9] == 6 ? 1 : 5, 0, 0, 50, 0, 20, 0, $0[9] == 6 ? 16 : 6, 0] + $0)
            }
            return plain + offloaded + [plain.prefix(12).flatMap { $0 }, offloaded.prefix(12).flatMap { $0 }]
        }

        private static func framed(_ frame: [UInt8]) -> [UInt8] {
            [UInt8(frame.count >> 8), UInt8(frame.count & 0xFF)] + frame
        }

        func run(_ bytes: [UInt8]) throws(FuzzFailure) {
            let before = balance
            let read = frames(bytes, headerBytes: 2) { $0.word(0) }.map(\.content).filter {
                // The device gives a header and one byte at least, and no more than it was asked for.
                (11...65_545).contains($0.count)
            }
            let reads = bench.counters[.tunnelReads]
            bench.kernel.tunnelQueue = read
            try bench.drain()
            defer {
                bench.kernel.sent.removeAll(keepingCapacity: true)
                bench.kernel.written.removeAll(keepingCapacity: true)
            }
            for datagram in bench.kernel.sent {
                let peer = Int((datagram.endpoint.address.v4?.bits ?? 0) & 0xFF)
                try hold(
                    WorkerBench.flaw(datagram.payload[...], verifyingChecksum: false) == nil,
                    "sent to peer \(peer), which is no packet: \(datagram.payload.prefix(40))")
                try hold(
                    WorkerBench.subnet(peer).contains(WorkerBench.address(datagram.payload, at: 16)),
                    "sent to peer \(peer), who does not hold its destination: \(datagram.payload.prefix(40))")
            }
            try hold(bench.counters[.tunnelReads] - reads == UInt64(read.count), "reads are not counted")
            try hold(balance == before, "packets in and packets out differ by \(balance &- before)")
            try hold(bench.kernel.stalls == 0, "the worker went deaf")
        }

        /// Packets read, and made by segmentation, less those sent and dropped: always the same.
        private var balance: UInt64 {
            bench.counters[.tunnelReads] &- bench.counters[.superPacketsRead] &+ bench.counters[.segmentsSent]
                &- bench.counters[.packetsSent] &- bench.sum("drop_outbound") &- bench.sum("outbound_ignored")
        }
    }

    /// Receive buffers, each a peer, the size of its datagrams, a length (two bytes both) and bytes: counted, or
    /// written as whole packets that come from that peer's pods for this node's.
    final class InboundTarget: FuzzTarget {
        let words = reservedAddresses
        let maximumBytes = 16_384
        private var bench = WorkerBench()

        var seeds: [[UInt8]] {
            var seeds: [[UInt8]] = []
            for peer in 2...6 {
                let packets = podPackets(from: WorkerBench.pod(peer), to: WorkerBench.pod(1))
                seeds += packets.map { InboundTarget.framed(peer, size: 0, $0) }
                seeds.append(
                    InboundTarget.framed(peer, size: packets[0].count, packets[0] + packets[0] + packets[0]))
                seeds.append(InboundTarget.framed(peer, size: packets[2].count, packets[2] + packets[3]))
                seeds.append(packets.flatMap { InboundTarget.framed(peer, size: 0, $0) })
            }
            // Two nodes' bridges, and a packet that is masquerading as its node.
            let masked = Packets.udp(WorkerBench.underlay(3), WorkerBench.pod(1), payload: [1, 2, 3])
            return seeds + [InboundTarget.framed(3, size: 0, masked)]
        }

        private static func framed(_ peer: Int, size: Int, _ bytes: [UInt8]) -> [UInt8] {
            [
                UInt8(peer), UInt8(size >> 8), UInt8(size & 0xFF), UInt8(bytes.count >> 8),
                UInt8(bytes.count & 0xFF),
            ] + bytes
        }

        func run(_ bytes: [UInt8]) throws(FuzzFailure) {
            let before = balance
            bench.kernel.socketQueue = frames(bytes, headerBytes: 5) { $0.word(3) }.filter {
                $0.content.count <= 65_507
            }.map { header, content in
                // UDP_GRO names a size where several came. A peer's number of 128 and more leaves checksums as they
                // are.
                let size =
                    header.word(1) > 0 && header.word(1) < content.count
                    ? header.word(1) : max(content.count, 1)
                let datagrams = stride(from: 0, to: content.count, by: size).map {
                    let datagram = Array(content[$0..<min($0 + size, content.count)])
                    return header[0] < 128 ? withHeaderChecksum(datagram) : datagram
                }
                return SimulatedKernel.Datagrams(
                    source: Endpoint(address: WorkerBench.underlay(Int(header[0] % 8)), port: 8285),
                    segmentBytes: size < content.count ? size : 0, payload: datagrams.flatMap { $0 })
            }
            try bench.drain()
            defer {
                bench.kernel.sent.removeAll(keepingCapacity: true)
                bench.kernel.written.removeAll(keepingCapacity: true)
            }
            for frame in bench.kernel.written {
                let packet = frame[10...]
                let source = WorkerBench.address(packet, at: 12)
                let isKnown = (2..<6).contains {
                    WorkerBench.subnet($0).contains(source) || WorkerBench.underlay($0) == source
                }
                try hold(
                    WorkerBench.flaw(packet, verifyingChecksum: true) == nil,
                    "written, which is no packet: \(frame.prefix(50))")
                try hold(isKnown, "written from \(source), which no peer holds")
                try hold(
                    WorkerBench.subnet(1).contains(WorkerBench.address(packet, at: 16)),
                    "written to \(WorkerBench.address(packet, at: 16)), which is not of this node")
            }
            try hold(
                balance == before, "datagrams received and packets written differ by \(balance &- before)")
            try hold(bench.kernel.stalls == 0, "the worker went deaf")
        }

        /// Datagrams received less those delivered and dropped, and hellos: always the same.
        private var balance: UInt64 {
            bench.counters[.datagramsReceived] &- bench.counters[.packetsDelivered]
                &- bench.counters[.hellosReceived] &- bench.sum("drop_inbound")
        }
    }
#endif
