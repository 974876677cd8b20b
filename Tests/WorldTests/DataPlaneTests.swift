import Counters
import Kit
import NetworkNamespaces
import Telemetry
import Testing

/// What strangers, pods and other users can do to the packet threads and their sockets.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct DataPlaneTests {
    /// A lab with daemons on its nodes, the first `count`, and a pod on each of these.
    private func start(
        _ lab: Lab, daemons count: Int, flags: String = ""
    ) async throws -> (daemons: [LabDaemon], pods: [LabPod]) {
        var daemons: [LabDaemon] = []
        for node in lab.nodes.prefix(count) { daemons.append(try await node.start(flags)) }
        var pods: [LabPod] = []
        for (node, daemon) in zip(lab.nodes, daemons) {
            let status = try await daemon.wait(for: "ready with all peers") {
                $0.isReady && $0.peers.count == count - 1
            }
            pods.append(try await node.addPod(in: try #require(status.lease?.subnet)))
        }
        return (daemons, pods)
    }

    // MARK: Errors that strangers forge

    /// ICMP errors for what a node's tunnel port sent to itself: type, code, and the word behind the checksum.
    private static let forgery = """
        import socket, struct, sys, time
        source, victim, kind, code, word, seconds = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]), float(sys.argv[6])
        def checksum(data):
            total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
            while total >> 16: total = (total & 0xffff) + (total >> 16)
            return ~total & 0xffff
        address = socket.inet_aton(victim)
        inner = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 1500, 1, 0x4000, 64, 17, 0, address, address)
        inner += struct.pack('!HHHH', 8285, 8285, 1480, 0)
        message = struct.pack('!BBHI', kind, code, 0, word) + inner
        message = message[:2] + struct.pack('!H', checksum(message)) + message[4:]
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        raw.bind((source, 0))
        end = time.time() + seconds
        while time.time() < end:
            raw.sendto(message, (victim, 0))
            time.sleep(0.0005)
        """

    @Test(arguments: [(3, 4, 1400), (3, 3, 0), (12, 0, 0), (3, 2, 0)])
    func errorsThatAStrangerForgesCostNeitherPacketsNorSegmentation(type: Int, code: Int, word: Int)
        async throws
    {
        let lab = try await Lab(nodes: 3)
        let (daemons, pods) = try await start(lab, daemons: 2)
        try lab.write("forge.py", Self.forgery)
        try await pods[1].run("iperf3 -s -1 -D >/dev/null 2>&1; sleep 0.2")
        let words = "\(lab[3].address) \(lab[1].address) \(type) \(code) \(word) 2"
        try await lab[3].run("python3 \(lab.directory)/forge.py \(words) >/dev/null 2>&1 &")
        try await pods[0].run("iperf3 -c \(pods[1].address) -t 2 >/dev/null")
        #expect(daemons[0].counter(.packetsSent) > 1000)
        #expect(daemons[0].counter(.segmentationFallbacks) == 0)
        let drops = daemons[0].status?.drops.filter { $0.key != .dropOutboundQueueFull }
        #expect(drops == [:])
        #expect(daemons[0].status?.problems == [])
    }

    // MARK: Who else may have the port

    /// Binds without a pause; keeps what it got beside another one's socket, and says so.
    private static let squatter = """
        import socket, sys, time
        address, port, option, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
        word = '%02X%02X%02X%02X:%04X' % (*reversed(socket.inet_aton(address)), port)
        end = time.time() + seconds
        while time.time() < end:
            own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            own.setsockopt(socket.SOL_SOCKET, option, 1)
            try: own.bind((address, port))
            except OSError:
                own.close()
                continue
            lines = [line for line in open('/proc/net/udp') if line.split()[1] == word]
            if len(lines) > 1:
                print('joined')
                break
            own.close()
            time.sleep(0.002)
        """

    @Test func anotherUsersProgramNeverGetsInAtTheStart() async throws {
        let lab = try await Lab(nodes: 1)
        try lab.write("squat.py", Self.squatter)
        for round in 0..<4 {
            let output = "\(lab.directory)/squat\(round)"
            try await lab[1].run(
                "(python3 \(lab.directory)/squat.py \(lab[1].address) 8285 2 1.5 "
                    + ">\(output) 2>&1; touch \(output).end) &")
            let daemon = try await lab[1].start()
            try await daemon.ready()
            _ = try await until("the squatter's end") { lab.read("squat\(round).end") }
            #expect(lab.read("squat\(round)") == "")
            daemon.signal(15)
            _ = try await daemon.exitStatus()
        }
    }

    @Test(arguments: ["", "--workers 3"])
    func afterTheStartNobodyGetsIn(flags: String) async throws {
        let lab = try await Lab(nodes: 1)
        try lab.write("squat.py", Self.squatter)
        let daemon = try await lab[1].start(flags)
        try await daemon.ready()
        for (address, option) in [(lab[1].address, 2), (lab[1].address, 15), ("0.0.0.0", 2), ("0.0.0.0", 15)]
        {
            let output = try await lab[1].run(
                "python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
                    + "s.setsockopt(1, \(option), 1); s.bind((\"\(address)\", 8285))' 2>&1 || true")
            #expect(output.contains("Address already in use"))
        }
        #expect(daemon.status?.problems == [])
    }

    /// Root can do everything: it opens the daemon's sockets to others, and joins.
    private static let thief = """
        import ctypes, os, socket, sys, time
        process, address, port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
        libc = ctypes.CDLL(None, use_errno=True)
        handle = libc.syscall(434, process, 0)
        for name in os.listdir('/proc/%d/fd' % process):
            descriptor = libc.syscall(438, handle, int(name), 0)
            if descriptor < 0: continue
            try: other = socket.socket(fileno=descriptor)
            except OSError: continue
            if other.family == socket.AF_INET and other.getsockname() == (address, port):
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.close()
        own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        own.bind((address, port))
        time.sleep(60)
        """

    @Test func whoGotInAllTheSameIsNamedUntilHeLeaves() async throws {
        let lab = try await Lab(nodes: 1)
        try lab.write("thief.py", Self.thief)
        let daemon = try await lab[1].start()
        try await daemon.ready()
        try await lab[1].run(
            "python3 \(lab.directory)/thief.py \(daemon.processIdentifier) \(lab[1].address) 8285 >/dev/null 2>&1 & "
                + "echo $! >\(lab.directory)/thief.pid")
        try await daemon.problem("172.20.32.101:8285", "python3 (process")
        let status = try await daemon.wait(for: "not ready") { !$0.isReady }
        #expect(status.components.contains { $0.kind == "port" && $0.condition == "cut-off" })
        try await lab[1].run("kill -9 $(cat \(lab.directory)/thief.pid)")
        try await daemon.healed()
    }

    // MARK: Packets that name nobody

    private static let injection = """
        import socket, struct, sys
        target, source, destination = sys.argv[1:4]
        payload = b'injected'
        datagram = struct.pack('!HHHH', 7, 9999, 8 + len(payload), 0) + payload
        header = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(datagram), 1, 0, 64, 17, 0,
            socket.inet_aton(source), socket.inet_aton(destination))
        total = sum(struct.unpack('!10H', header))
        while total >> 16: total = (total & 0xffff) + (total >> 16)
        header = header[:10] + struct.pack('!H', ~total & 0xffff) + header[12:]
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(header + datagram, (target, 8285))
        """

    @Test(arguments: ["", "--accept-any-source"])
    func innerAddressesThatNoHostHasReachNobody(flags: String) async throws {
        let lab = try await Lab()
        let (daemons, pods) = try await start(lab, daemons: 2, flags: flags)
        try lab.write("inject.py", Self.injection)
        let listen =
            "timeout 20 python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
            + "s.bind((\"\", 9999)); print(s.recv(100))'"
        try await lab[1].run("(\(listen)) >\(lab.directory)/node.got 2>&1 & ")
        try await pods[0].run("(\(listen)) >\(lab.directory)/pod.got 2>&1 & ")
        try await lab[1].run("until ss -lun | grep -q :9999; do sleep 0.05; done")
        func inject(_ source: String, _ destination: String) async throws {
            try await lab[2].run(
                "python3 \(lab.directory)/inject.py \(lab[1].address) \(source) \(destination)")
        }
        for address in ["0.0.0.0", "127.0.0.1", "255.255.255.255", "224.0.0.1"] {
            try await inject(address, address)
        }
        for source in ["0.0.0.0", "127.0.0.1", "240.0.0.1"] { try await inject(source, pods[0].address) }
        try await daemons[0].wait(for: "the drops to be counted") { status in
            func value(_ name: String) -> UInt64 { status.counters.first { $0.name == name }?.value ?? 0 }
            return value("drop_inbound_destination") == 4 && value("drop_inbound_source") == 3
        }
        #expect(lab.read("node.got") == "" && lab.read("pod.got") == "")
    }

    // MARK: A pod that takes all

    /// Super-packets of small segments, by a packet socket with a virtio header.
    private static let heavyPod = """
        import socket, struct, sys, time
        gateway, source, destination, size, seconds = *sys.argv[1:4], int(sys.argv[4]), float(sys.argv[5])
        def mac(text): return bytes(int(part, 16) for part in text.split(':'))
        neighbours = [line.split() for line in open('/proc/net/arp')]
        far = next(mac(fields[3]) for fields in neighbours if fields[0] == gateway)
        near = mac(open('/sys/class/net/eth0/address').read().strip()) if len(sys.argv) < 7 else mac(sys.argv[6])
        payload = bytes(min(64000, 700 * size) if size > 8 else 64000)
        tcp = struct.pack('!HHIIBBHHH', 1000, 2000, 1, 1, 0x50, 0x10, 1000, 0, 0) + payload
        header = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(tcp), 1, 0x4000, 64, 6, 0,
            socket.inet_aton(source), socket.inet_aton(destination))
        total = sum(struct.unpack('!10H', header))
        while total >> 16: total = (total & 0xffff) + (total >> 16)
        header = header[:10] + struct.pack('!H', ~total & 0xffff) + header[12:]
        frame = struct.pack('<BBHHHH', 1, 1, 54, size, 34, 16) + far + near + b'\\x08\\x00' + header + tcp
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        raw.setsockopt(263, 15, 1)
        raw.bind(('eth0', 0x800))
        end = time.time() + seconds
        while time.time() < end:
            try: raw.send(frame)
            except OSError: pass
        """

    @Test(arguments: [1, 90])
    func aPodOfManySmallSegmentsDoesNotMakeOthersWait(segmentBytes: Int) async throws {
        let lab = try await Lab()
        let (daemons, pods) = try await start(lab, daemons: 2)
        let subnet = try #require(daemons[0].status?.lease?.subnet)
        let other = try await lab[1].addPod(in: subnet, host: 3)
        try lab.write("heavy.py", Self.heavyPod)
        let gateway = pods[0].address.split(separator: ".").dropLast().joined(separator: ".") + ".1"
        #expect(await pods[0].answers(from: pods[1].address) > 0)
        #expect(await other.answers(from: pods[1].address) > 0)
        let address = try await pods[0].run("ip -br link show eth0").split(separator: " ")[2]
        let words = "\(gateway) \(pods[0].address) \(pods[1].address) \(segmentBytes) 60 \(address)"
        try await pods[0].run(
            "timeout 60 python3 \(lab.directory)/heavy.py \(words) >/dev/null 2>&1 & echo $! >\(lab.directory)/heavy.pid"
        )
        let counter: Counter =
            segmentBytes == 1 ? .dropOutboundSuperPacketSegmentCount : .dropOutboundSmallSegments
        _ = try await until("the flood") { daemons[0].counter(counter) > 100 ? true : nil }
        // None was answered before, however long one waited. A machine that does something beside this may lose some.
        let received = await other.answers(from: pods[1].address, count: 20)
        // Signals but this one are blocked in what a test starts.
        try await pods[0].run("kill -9 $(cat \(lab.directory)/heavy.pid) || true")
        #expect(received >= 10)
    }

    // MARK: Ends and counts

    @Test(arguments: ["uring", "mmsg"])
    func whatADaemonClosesIsFreeAtOnce(engine: String) async throws {
        let lab = try await Lab(nodes: 1)
        let daemon = try await lab[1].start("--engine \(engine)")
        try await daemon.ready()
        for port in 8290..<8296 {
            try lab.write(
                "store/config", #"{"Network": "100.96.0.0/16", "Backend": {"Type": "udp", "Port": \#(port)}}"#
            )
            try await daemon.logged("bound=172.20.32.101:\(port)")
        }
        #expect(!daemon.log.contains("waiting_for_the"))
        #expect(!daemon.log.contains("set_up_failed"))
        try await daemon.healed()
    }

    @Test func whatTheKernelDropsBeforeTheThreadsIsCounted() async throws {
        let lab = try await Lab()
        let (daemons, pods) = try await start(
            lab, daemons: 2, flags: "--socket-buffer 65536 --queue-length 10")
        daemons[0].signal(19)
        try await lab[2].run(
            "python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
                + "[s.sendto(bytes(1400), (\"\(lab[1].address)\", 8285)) for _ in range(2000)]'")
        try await pods[0].run("ping -q -f -c 100 -W 1 \(pods[1].address) || true")
        daemons[0].signal(18)
        try await daemons[0].wait(for: "the drops to be counted") {
            $0.value(of: .dropInboundSocketFull) > 100 && $0.value(of: .dropOutboundQueueFull) > 50
        }
    }

    @Test func whatHostsAnnounceOnEveryInterfaceIsNoLoss() async throws {
        let lab = try await Lab()
        let (daemons, _) = try await start(lab, daemons: 2)
        try await lab[1].run("ping -6 -c 2 -i 0.1 -W 1 ff02::2%flannel0 >/dev/null 2>&1 || true")
        try await lab[1].run(
            "python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
                + "s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1); "
                + "s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b\"flannel0\"); "
                + "[s.sendto(b\"x\", (a, 5353)) for a in (\"224.0.0.251\", \"255.255.255.255\")]'")
        try await daemons[0].wait(for: "four to be seen") { $0.value(of: .outboundIgnored) >= 4 }
        for daemon in daemons { #expect(daemon.status?.drops == [:]) }
    }

    @Test func whatWasSentLastIsCountedOnAnIdleNode() async throws {
        let lab = try await Lab()
        let (daemons, pods) = try await start(lab, daemons: 2)
        try await pods[1].run(
            "(timeout 20 python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
                + "s.bind((\"\", 9)); s.recv(10); s.recv(10)') >/dev/null 2>&1 & "
                + "until ss -lun | grep -q :9; do sleep 0.05; done")
        let before = daemons[0].counter(.packetsSent)
        try await pods[0].run(
            "echo x >/dev/udp/\(pods[1].address)/9 || bash -c 'echo x >/dev/udp/\(pods[1].address)/9'")
        try await daemons[0].wait(for: "it to be counted") { $0.value(of: .packetsSent) > before }
    }
}
