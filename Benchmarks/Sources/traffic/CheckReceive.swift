import Addresses
import ArgumentParser
import CMessages
import Glibc

/// The other end of `check-send` and `inject`: compares every byte with what must have been sent.
struct CheckReceive: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check-receive",
        abstract:
            "Compares datagrams and TCP streams with what was sent, byte for byte; until a signal ends it.",
        discussion: "Exits with 1 where anything came corrupt, or a datagram after a later one of its flow.")

    @Option(help: "Address and port, for UDP and for TCP.", transform: SocketAddress.parse)
    var bind: SocketAddress

    @Option(help: "Seed of the content, as the senders have it.")
    var seed: UInt32

    func run() throws {
        StopSignal.install()
        var receiver = try CheckingReceiver(bind, seed: seed)
        try receiver.run()
        print(receiver.json)
        if receiver.corrupt + receiver.behind > 0 { throw ExitCode.failure }
    }
}

/// One socket for all datagrams, one for each stream, one thread.
struct CheckingReceiver: ~Copyable {
    private static let batch = 32
    /// More connections than this at a time are refused.
    private static let streamLimit = 256
    private static let readBytes = 128 << 10

    private struct Stream {
        var flow: UInt16?
        var position: UInt64 = 0
        var corrupt: UInt64 = 0
        var header = [UInt8]()
    }

    private struct Flow {
        var received: UInt64 = 0
        var next: UInt64 = 0
    }

    private let content: CheckedContent
    private let seed: UInt32
    private let socket: Socket
    private let listener: Socket
    private let incoming = MessageBatch(count: CheckingReceiver.batch, slotBytes: 1 << 16)
    private let buffer: UnsafeMutableRawPointer
    /// The listener and the datagrams' socket, then the streams' in the order of `streams`.
    private var polled: [pollfd]
    private var streams: [Stream] = []
    private var flows: [UInt16: Flow] = [:]
    private var drops: UInt32 = 0

    /// Datagrams or runs of a stream that are not what was sent.
    private(set) var corrupt: UInt64 = 0
    /// Datagrams that came after a later one of their flow, or twice.
    private(set) var behind: UInt64 = 0
    /// Datagrams of another seed: stragglers of an earlier run.
    private var foreign: UInt64 = 0
    private var datagrams: UInt64 = 0
    private var datagramBytes: UInt64 = 0
    private var streamBytes: UInt64 = 0
    private var streamsEnded = 0

    init(_ local: SocketAddress, seed: UInt32) throws {
        let socket = try Socket(.datagram, family: local.family)
        socket.set(SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
        socket.set(SOL_SOCKET, SO_RXQ_OVFL, 1)
        try socket.bind(local)
        let listener = try Socket(.stream, family: local.family)
        listener.set(SOL_SOCKET, SO_REUSEADDR, 1)
        try listener.bind(local)
        guard listen(listener.descriptor, 128) == 0 else { throw SystemCallError("listen on \(local)") }
        polled = [
            pollfd(fd: listener.descriptor, events: Int16(POLLIN), revents: 0),
            pollfd(fd: socket.descriptor, events: Int16(POLLIN), revents: 0),
        ]
        content = CheckedContent(seed: seed)
        self.seed = seed
        self.socket = socket
        self.listener = listener
        buffer = .allocate(byteCount: Self.readBytes, alignment: 64)
    }

    deinit {
        buffer.deallocate()
        for entry in polled.dropFirst(2) { close(entry.fd) }
    }

    mutating func run() throws {
        while !StopSignal.came {
            guard poll(&polled, nfds_t(polled.count), -1) >= 0 else {
                if errno == EINTR { continue }
                throw SystemCallError("poll")
            }
            // From the last on, as those that end are taken out.
            for place in polled.indices.dropFirst(2).reversed() where polled[place].revents != 0 {
                readStream(place - 2)
            }
            if polled[1].revents != 0 { try receiveDatagrams() }
            if polled[0].revents != 0 { acceptStream() }
        }
    }

    // MARK: Datagrams

    private mutating func receiveDatagrams() throws {
        incoming.prepareToReceive()
        let count = recvmmsg(
            socket.descriptor, incoming.messages, UInt32(Self.batch), Int32(MSG_DONTWAIT), nil)
        guard count >= 0 else {
            if errno == EAGAIN || errno == EINTR || errno == ECONNREFUSED { return }
            throw SystemCallError("receive")
        }
        for index in 0..<Int(count) {
            if let total = incoming.receiveQueueDrops(index) { drops = total }
            check(incoming.bytes(index), count: Int(incoming.messages[index].msg_len))
        }
    }

    private mutating func check(_ bytes: UnsafeMutableRawPointer, count: Int) {
        datagrams += 1
        datagramBytes += UInt64(count)
        guard count >= CheckedHeader.bytes, let header = CheckedHeader(from: bytes) else {
            corrupt += 1
            return
        }
        guard header.seed == seed else {
            foreign += 1
            return
        }
        guard header.length == count,
            memcmp(
                bytes + CheckedHeader.bytes, content.run(flow: header.flow, sequence: header.sequence),
                count - CheckedHeader.bytes) == 0
        else {
            corrupt += 1
            return
        }
        var flow = flows[header.flow, default: Flow()]
        flow.received += 1
        if header.sequence < flow.next { behind += 1 } else { flow.next = header.sequence + 1 }
        flows[header.flow] = flow
    }

    // MARK: Streams

    private mutating func acceptStream() {
        let connection = accept(listener.descriptor, nil, nil)
        guard connection >= 0 else { return }
        guard streams.count < Self.streamLimit else {
            close(connection)
            return
        }
        _ = fcntl(connection, F_SETFL, O_NONBLOCK)
        polled.append(pollfd(fd: connection, events: Int16(POLLIN), revents: 0))
        streams.append(Stream())
    }

    private mutating func readStream(_ index: Int) {
        let descriptor = polled[index + 2].fd
        let count = read(descriptor, buffer, Self.readBytes)
        if count < 0, errno == EAGAIN || errno == EINTR { return }
        guard count > 0 else { return endStream(index, wasReset: count < 0) }
        var offset = 0
        if streams[index].flow == nil {
            while streams[index].header.count < CheckedHeader.bytes, offset < count {
                streams[index].header.append(buffer.load(fromByteOffset: offset, as: UInt8.self))
                offset += 1
            }
            guard streams[index].header.count == CheckedHeader.bytes else { return }
            let header = streams[index].header.withUnsafeBytes { CheckedHeader(from: $0.baseAddress!) }
            guard let header, header.seed == seed else {
                corrupt += 1
                return endStream(index, wasReset: true)
            }
            streams[index].flow = header.flow
        }
        let flow = streams[index].flow!
        let expected = content.run(stream: flow, position: streams[index].position)
        if memcmp(buffer + offset, expected, count - offset) != 0 {
            corrupt += 1
            streams[index].corrupt += 1
        }
        streams[index].position += UInt64(count - offset)
        streamBytes += UInt64(count - offset)
    }

    /// Tells the sender how many bytes came as they should, and closes.
    private mutating func endStream(_ index: Int, wasReset: Bool) {
        let descriptor = polled[index + 2].fd
        if !wasReset {
            var intact = streams[index].corrupt == 0 ? streams[index].position : UInt64.max
            _ = write(descriptor, &intact, 8)
            streamsEnded += 1
        }
        close(descriptor)
        polled.remove(at: index + 2)
        streams.remove(at: index)
    }

    // MARK: What came of it

    var json: String {
        let received = flows.sorted { $0.key < $1.key }.map { "\"\($0.key)\":\($0.value.received)" }
        return """
            {"corrupt":\(corrupt),"behind":\(behind),"foreign":\(foreign),"datagrams":\(datagrams),\
            "datagram_bytes":\(datagramBytes),"dropped_at_socket":\(drops),"streams":\(streamsEnded),\
            "streams_cut":\(streams.count),"stream_bytes":\(streamBytes),\
            "received":{\(received.joined(separator: ","))}}
            """
    }
}
