import Addresses
import ArgumentParser
import CMessages
import EndpointArgument
import Glibc

/// Requests and responses of one byte over TCP, as netperf's TCP_RR and TCP_CRR: over connections that stay, or each
/// over one of its own.
struct Transactions: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Times requests over TCP, on connections that stay or on a new one each.")

    @Option(
        help: "Address and port of `traffic receive`, whose echo listens on the next port.",
        transform: parseEndpoint)
    var to: Endpoint

    @Option(help: "Connections at once, each with one request on its way.")
    var connections = 1

    @Flag(help: "Every request on a connection of its own, timed from the start of the handshake.")
    var connectEach = false

    @Option(
        help:
            "Requests a second over all connections, timed from when they are due; 0: as soon as one is answered."
    )
    var rate: Double = 0

    @Option(help: "Seconds to go on.")
    var seconds: Double = 2

    func validate() throws {
        guard (1...Sink.maximumFlows).contains(connections) else {
            throw ValidationError("--connections \(connections): 1 to \(Sink.maximumFlows)")
        }
    }

    func run() throws {
        let target = SocketAddress(Endpoint(address: to.addressIPv4, port: to.port + EchoServer.portOffset))
        var clients = try TransactionClients(
            target, count: connections, connectsEach: connectEach, rate: rate, seconds: seconds)
        print(try clients.run())
    }
}

/// All connections on one thread, by poll.
private struct TransactionClients: ~Copyable {
    private enum State { case unconnected, connecting, idle, waiting }

    private struct Client {
        var descriptor: Int32 = -1
        var state = State.unconnected
        var beganNanoseconds: UInt64 = 0
    }

    private let target: SocketAddress
    private let connectsEach: Bool
    private let nanosecondsApart: Double
    private let start: UInt64
    private let end: UInt64
    private var clients: [Client]
    /// What is waited for on each connection, in their order; -1 as a descriptor is waited for by nobody.
    private var polled: [pollfd]
    private var begun: UInt64 = 0
    private var failed = 0
    private var latencies: [UInt64] = []

    init(_ target: SocketAddress, count: Int, connectsEach: Bool, rate: Double, seconds: Double) throws {
        self.target = target
        self.connectsEach = connectsEach
        nanosecondsApart = rate > 0 ? 1e9 / rate : 0
        clients = Array(repeating: Client(), count: count)
        polled = Array(repeating: pollfd(fd: -1, events: 0, revents: 0), count: count)
        latencies.reserveCapacity(1 << 20)
        start = nanosecondsNow()
        end = start + UInt64(seconds * 1e9)
    }

    deinit {
        for client in clients where client.descriptor >= 0 { close(client.descriptor) }
    }

    mutating func run() throws -> String {
        var now = nanosecondsNow()
        while now < end {
            try beginWhatIsDue(now)
            var time = timespec(tv_sec: 0, tv_nsec: Int(min(nanosecondsToWait(now), 50_000_000)))
            let count = ppoll(&polled, nfds_t(polled.count), &time, nil)
            now = nanosecondsNow()
            guard count > 0 else { continue }
            for index in polled.indices where polled[index].revents != 0 { advance(index, at: now) }
        }
        return json(seconds: Double(now - start) * 1e-9)
    }

    private var isPaced: Bool { nanosecondsApart > 0 }

    private func due(_ request: UInt64) -> UInt64 { start + UInt64(Double(request) * nanosecondsApart) }

    private func nanosecondsToWait(_ now: UInt64) -> UInt64 {
        guard isPaced else { return end > now ? end - now : 0 }
        let next = due(begun)
        return next > now ? next - now : 1_000_000
    }

    private mutating func beginWhatIsDue(_ now: UInt64) throws {
        for index in clients.indices
        where clients[index].state == .idle || clients[index].state == .unconnected {
            if isPaced, due(begun) > now { return }
            clients[index].beganNanoseconds = isPaced ? due(begun) : now
            begun += 1
            if clients[index].state == .idle { request(index) } else { try connect(index) }
        }
    }

    private mutating func connect(_ index: Int) throws {
        let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        let descriptor = socket(AF_INET, type, 0)
        guard descriptor >= 0 else { throw SystemCallError("make a socket") }
        var on: Int32 = 1
        setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<Int32>.size))
        // Closes with RST: thousands of connections a second would use up the ports in TIME_WAIT.
        var reset = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &reset, socklen_t(MemoryLayout<linger>.size))
        clients[index].descriptor = descriptor
        clients[index].state = .connecting
        let result = target.withPointer { Glibc.connect(descriptor, $0, $1) }
        guard result == 0 || errno == EINPROGRESS else {
            fail(index)
            return
        }
        polled[index] = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
    }

    private mutating func request(_ index: Int) {
        var byte: UInt8 = 1
        clients[index].state = .waiting
        if send(clients[index].descriptor, &byte, 1, Int32(MSG_NOSIGNAL)) != 1 { fail(index) }
    }

    private mutating func advance(_ index: Int, at now: UInt64) {
        switch clients[index].state {
        case .connecting:
            var error: Int32 = 0
            var length = socklen_t(MemoryLayout<Int32>.size)
            getsockopt(clients[index].descriptor, SOL_SOCKET, SO_ERROR, &error, &length)
            guard error == 0 else { return fail(index) }
            polled[index].events = Int16(POLLIN)
            request(index)
        case .waiting:
            var byte: UInt8 = 0
            guard recv(clients[index].descriptor, &byte, 1, 0) == 1 else { return fail(index) }
            latencies.append(now - clients[index].beganNanoseconds)
            if connectsEach { disconnect(index) } else { clients[index].state = .idle }
        case .unconnected, .idle: disconnect(index)
        }
    }

    private mutating func fail(_ index: Int) {
        failed += 1
        disconnect(index)
    }

    private mutating func disconnect(_ index: Int) {
        if clients[index].descriptor >= 0 { close(clients[index].descriptor) }
        clients[index] = Client()
        polled[index] = pollfd(fd: -1, events: 0, revents: 0)
    }

    /// The mean leaves out the highest twentieth, as the IETF's responsiveness does.
    private func json(seconds: Double) -> String {
        let ordered = latencies.sorted()
        func microseconds(_ share: Double) -> Double {
            ordered.isEmpty
                ? 0 : Double(ordered[min(Int(Double(ordered.count) * share), ordered.count - 1)]) / 1000
        }
        let kept = ordered.prefix((ordered.count * 19 + 19) / 20)
        let mean = kept.isEmpty ? 0 : kept.reduce(0.0) { $0 + Double($1) } / Double(kept.count) / 1000
        return """
            {"count":\(ordered.count),"lost":\(failed),"per_second":\(Double(ordered.count) / seconds),\
            "p50_us":\(microseconds(0.5)),"p99_us":\(microseconds(0.99)),"trimmed_mean_us":\(mean)}
            """
    }
}

/// Sends back what comes over TCP, on a thread of its own.
final class EchoServer: Sendable {
    /// Its port, behind that of the datagrams.
    static let portOffset: UInt16 = 1

    private let listener: Int32

    init(_ local: Endpoint) throws {
        let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        listener = socket(AF_INET, type, 0)
        guard listener >= 0 else { throw SystemCallError("make a TCP socket") }
        var on: Int32 = 1
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, socklen_t(MemoryLayout<Int32>.size))
        let endpoint = Endpoint(address: local.addressIPv4, port: local.port + Self.portOffset)
        let isBound = SocketAddress(endpoint).withPointer { bind(listener, $0, $1) } == 0
        guard isBound, listen(listener, 1024) == 0 else { throw SystemCallError("listen on \(endpoint)") }
    }

    func startThread() {
        var thread = pthread_t()
        pthread_create(
            &thread, nil,
            { context in
                Unmanaged<EchoServer>.fromOpaque(context!).takeRetainedValue().run()
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
    }

    private func run() {
        // The listener stands first, then the connections.
        var polled = [pollfd(fd: listener, events: Int16(POLLIN), revents: 0)]
        var buffer = [UInt8](repeating: 0, count: 2048)
        while true {
            poll(&polled, nfds_t(polled.count), -1)
            for index in polled.indices.dropFirst().reversed() where polled[index].revents != 0 {
                let descriptor = polled[index].fd
                let received = recv(descriptor, &buffer, buffer.count, Int32(MSG_DONTWAIT))
                let isSent =
                    received > 0 && send(descriptor, buffer, received, Int32(MSG_NOSIGNAL)) == received
                guard !isSent, received >= 0 || errno != EAGAIN else { continue }
                close(descriptor)
                polled.remove(at: index)
            }
            if polled[0].revents != 0 { acceptAll(into: &polled) }
        }
    }

    private func acceptAll(into polled: inout [pollfd]) {
        while true {
            let connection = accept(listener, nil, nil)
            guard connection >= 0 else { return }
            var on: Int32 = 1
            setsockopt(connection, Int32(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<Int32>.size))
            polled.append(pollfd(fd: connection, events: Int16(POLLIN), revents: 0))
        }
    }
}
