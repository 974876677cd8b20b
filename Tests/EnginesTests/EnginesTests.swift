import CLinux
import Engines
import Glibc
import Testing

/// What an engine is tried on: a pair of Unix datagram sockets in place of the TUN device (one frame a read, one a
/// write), and a UDP socket on loopback that sends to itself.
private final class Ends {
    let memory = PacketMemory(
        tunnelBufferCount: 8, datagramBufferCount: 4, messageCount: 4, hugePages: false)!
    let tunnel: Int32
    let pods: Int32
    let socket: Int32
    let wake: Int32
    let name = UnsafeMutablePointer<sockaddr_in>.allocate(capacity: 1)
    let vector = UnsafeMutablePointer<iovec>.allocate(capacity: 1)

    init() {
        var pair: [Int32] = [0, 0]
        socketpair(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0, &pair)
        (tunnel, pods) = (pair[0], pair[1])
        socket = Glibc.socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
        wake = eventfd(0, 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        name.initialize(to: address)
        vector.initialize(to: iovec())
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        name.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            _ = bind(socket, $0, length)
            _ = getsockname(socket, $0, &length)
        }
    }

    func close() {
        for descriptor in [tunnel, pods, socket, wake] { Glibc.close(descriptor) }
        name.deallocate()
        vector.deallocate()
        memory.deallocate()
    }
}

private struct NothingCame: Error {}

/// Waits for the next completion.
private func next<Engine: PacketEngine & ~Copyable>(_ engine: inout Engine) throws -> Completion {
    for _ in 0..<50 {
        if let completion = engine.nextCompletion() { return completion }
        guard engine.enter(waitingFor: 1, timeoutMicroseconds: 100_000) == 0 else { break }
    }
    throw NothingCame()
}

/// Every operation once, and what it must leave behind.
private func exercise<Engine: PacketEngine & ~Copyable>(_ engine: inout Engine, _ ends: Ends) throws {
    let memory = ends.memory
    var result: Int32
    // A read that does not wait finds nothing.
    engine.read(into: 0, parked: false)
    result = engine.enter(waitingFor: 1, timeoutMicroseconds: 100_000)
    #expect(result == 0)
    let dry = try next(&engine)
    #expect(dry.kind == .read && dry.index == 0 && dry.result == -Int(EAGAIN))

    // A parked one is ended by the frame that comes, a burst takes the frames behind it in order.
    engine.read(into: 1, parked: true)
    result = engine.enter(waitingFor: 0, timeoutMicroseconds: -1)
    #expect(result == 0)
    let early = engine.nextCompletion()
    #expect(early?.kind == nil)
    for byte in 1...3 as ClosedRange<UInt8> { write(ends.pods, [byte, byte], 2) }
    let parked = try next(&engine)
    #expect(parked.kind == .read && parked.index == 1 && parked.result == 2)
    #expect(memory.tunnelBuffer(1).load(fromByteOffset: PacketMemory.virtioHeaderOffset, as: UInt8.self) == 1)
    engine.read(into: 2, parked: false)
    engine.read(into: 3, parked: false)
    for byte in 2...3 {
        let read = try next(&engine)
        #expect(read.kind == .read && read.index == byte)
        #expect(
            memory.tunnelBuffer(byte).load(fromByteOffset: PacketMemory.virtioHeaderOffset, as: UInt8.self)
                == byte)
    }

    // A message to ourselves comes back as a datagram, with who sent it.
    for buffer in 0..<4 { engine.provide(buffer) }
    memory.tunnelBuffer(4).storeBytes(of: 0xABCD, as: UInt16.self)
    ends.vector.pointee = iovec(iov_base: memory.tunnelBuffer(4), iov_len: 2)
    memory.messages[2] = msghdr(
        msg_name: ends.name, msg_namelen: 16, msg_iov: ends.vector, msg_iovlen: 1, msg_control: nil,
        msg_controllen: 0, msg_flags: 0)
    engine.send(2)
    var kinds: Set<OperationKind> = []
    for _ in 0..<2 {
        let completion = try next(&engine)
        kinds.insert(completion.kind)
        if completion.kind == .send { #expect(completion.index == 2 && completion.result == 2) }
        guard completion.kind == .receive else { continue }
        let received = ReceivedDatagrams(memory.datagramBuffer(completion.index))
        #expect(received.length == 2 && received.segmentBytes == 2 && !received.isTruncated)
        #expect(received.payload.load(as: UInt16.self) == 0xABCD)
        #expect(received.sourceBits == 0x7F00_0001)
        engine.provide(completion.index)
    }
    #expect(kinds == [.send, .receive])

    // More datagrams than buffers: none is lost, and the engine takes them up again.
    for _ in 0..<10 { engine.send(2) }
    var received = 0
    for _ in 0..<20 {
        let completion = try next(&engine)
        guard completion.kind == .receive else { continue }
        received += 1
        engine.provide(completion.index)
    }
    #expect(received == 10)

    // A write arrives as one frame.
    engine.write(7, ends.vector, count: 1)
    let written = try next(&engine)
    #expect(written.kind == .write && written.index == 7 && written.result == 2)
    var frame = [UInt8](repeating: 0, count: 8)
    #expect(read(ends.pods, &frame, 8) == 2)

    // A wake-up ends a wait.
    eventfd_write(ends.wake, 1)
    let woken = try next(&engine)
    #expect(woken.kind == .wake)

    // A read is left parked: closing must not leave anything behind.
    engine.read(into: 5, parked: true)
    result = engine.enter(waitingFor: 0, timeoutMicroseconds: -1)
    #expect(result == 0)
    let calls = engine.systemCalls
    #expect(calls > 0)
}

@Suite struct EnginesTests {
    @Test func uring() throws {
        let ends = Ends()
        var engine = try UringEngine(
            memory: ends.memory, tunnel: ends.tunnel, socket: ends.socket, sender: ends.socket,
            wake: ends.wake, entries: 64)
        defer {
            engine.close()
            ends.close()
        }
        try exercise(&engine, ends)
    }

    @Test func mmsg() throws {
        let ends = Ends()
        var engine = try MmsgEngine(
            memory: ends.memory, tunnel: ends.tunnel, socket: ends.socket, sender: ends.socket,
            wake: ends.wake, entries: 64)
        defer {
            engine.close()
            ends.close()
        }
        try exercise(&engine, ends)
    }
}
