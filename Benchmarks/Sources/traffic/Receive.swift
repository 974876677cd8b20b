import Addresses
import ArgumentParser
import CMessages
import EndpointArgument
import Glibc

/// The other end of every other subcommand: counts datagrams, answers echoes, accepts connects.
struct Receive: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Counts datagrams, sends echoes back, accepts connections; until a signal ends it.")

    @Option(help: "Address and port, for UDP and for TCP.", transform: parseEndpoint)
    var bind: Endpoint

    @Flag(help: "Spin on the socket instead of sleeping, so that the sink is not what is measured.")
    var spin = false

    func run() throws {
        let acceptor = try Acceptor(bind)
        acceptor.startThread()
        try EchoServer(bind).startThread()
        var sink = try Sink(bind, spins: spin)
        try sink.run()
    }
}

/// Counts one run at a time; a datagram of another run starts afresh.
struct Sink: ~Copyable {
    static let maximumFlows = 1024
    private static let batch = 256

    private let socket: Socket
    private let spins: Bool
    private let incoming = MessageBatch(count: Sink.batch, slotBytes: 2048)
    private let nextSequence: UnsafeMutablePointer<UInt64>
    private var currentRun: UInt32 = 0
    private var report = SinkReport()
    private var datagramBytes: UInt32 = 0
    private var firstNanoseconds: UInt64 = 0
    private var lastNanoseconds: UInt64 = 0
    private var drops: UInt32 = 0
    private var dropsAtStart: UInt32 = 0

    init(_ local: Endpoint, spins: Bool) throws {
        let socket = try Socket(.datagram)
        // 32 MiB: a tenth of a second of 64-byte datagrams at 400,000 a second, with what the kernel counts
        // for each of them.
        socket.set(SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
        socket.set(SOL_SOCKET, SO_RXQ_OVFL, 1)
        try socket.bind(SocketAddress(local))
        self.socket = socket
        self.spins = spins
        nextSequence = .allocate(capacity: Self.maximumFlows)
        nextSequence.initialize(repeating: 0, count: Self.maximumFlows)
    }

    deinit { nextSequence.deallocate() }

    mutating func run() throws {
        while true {
            incoming.prepareToReceive()
            let flags = spins ? Int32(MSG_DONTWAIT) : Int32(MSG_WAITFORONE)
            let count = recvmmsg(socket.descriptor, incoming.messages, UInt32(Sink.batch), flags, nil)
            if count < 0 {
                guard errno == EAGAIN || errno == EINTR else { throw SystemCallError("receive") }
                continue
            }
            let now = nanosecondsNow()
            for index in 0..<Int(count) { take(index, at: now) }
        }
    }

    private mutating func take(_ index: Int, at now: UInt64) {
        let bytes = incoming.bytes(index)
        let count = incoming.messages[index].msg_len
        guard count >= Datagram.headerBytes,
            let kind = Datagram.Kind(rawValue: bytes.load(fromByteOffset: 4, as: UInt16.self))
        else {
            report.malformed += 1
            return
        }
        if let total = incoming.receiveQueueDrops(index) { drops = total }
        switch kind {
        case .data: countData(bytes, count: count, at: now)
        case .reportRequest: answer(index)
        case .echo: reply(index, bytes: Int(count))
        }
    }

    private mutating func countData(_ bytes: UnsafeMutableRawPointer, count: UInt32, at now: UInt64) {
        let run = bytes.load(as: UInt32.self)
        if run != currentRun {
            currentRun = run
            report = SinkReport()
            datagramBytes = count
            firstNanoseconds = now
            dropsAtStart = drops
            nextSequence.update(repeating: 0, count: Self.maximumFlows)
        }
        let flow = Int(bytes.load(fromByteOffset: 6, as: UInt16.self))
        guard count == datagramBytes, flow < Self.maximumFlows else {
            report.malformed += 1
            return
        }
        report.received += 1
        lastNanoseconds = now
        let sequence = bytes.load(fromByteOffset: 8, as: UInt64.self)
        if sequence < nextSequence[flow] { report.reordered += 1 } else { nextSequence[flow] = sequence + 1 }
    }

    private mutating func answer(_ index: Int) {
        let bytes = incoming.bytes(index)
        let asked = bytes.load(as: UInt32.self)
        var answer = asked == currentRun ? report : SinkReport()
        answer.droppedAtSink = UInt64(drops &- dropsAtStart)
        answer.nanoseconds = asked == currentRun ? lastNanoseconds - firstNanoseconds : 0
        answer.store(run: asked, to: bytes)
        reply(index, bytes: SinkReport.bytes)
    }

    private func reply(_ index: Int, bytes count: Int) {
        var address = incoming.address(index)
        withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                _ = sendto(
                    socket.descriptor, incoming.bytes(index), count, 0, $0,
                    socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
    }
}

/// Accepts connections and closes them at once, on a thread of its own.
final class Acceptor: Sendable {
    private let descriptor: Int32

    init(_ local: Endpoint) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw SystemCallError("make a TCP socket") }
        var on: Int32 = 1
        setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, socklen_t(MemoryLayout<Int32>.size))
        let isBound = SocketAddress(local).withPointer { bind(descriptor, $0, $1) } == 0
        guard isBound, listen(descriptor, 1024) == 0 else {
            throw SystemCallError("listen on \(local)")
        }
    }

    func startThread() {
        var thread = pthread_t()
        pthread_create(
            &thread, nil,
            { context in
                let acceptor = Unmanaged<Acceptor>.fromOpaque(context!).takeRetainedValue()
                while true {
                    let connection = accept(acceptor.descriptor, nil, nil)
                    if connection >= 0 { close(connection) }
                }
            }, Unmanaged.passRetained(self).toOpaque())
    }
}
