import Addresses
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
        socketpair(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &pair)
        (tunnel, pods) = (pair[0], pair[1])
        socket = Glibc.socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
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

    var channels: EngineChannels { EngineChannels(tunnel: tunnel, socket: socket, sender: socket) }

    /// Connects the socket to one on loopback that is gone, with an ICMP error waiting that tells so; and before
    /// that, with a datagram from there.
    func meetAnError() {
        let other = Glibc.socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                _ = bind(other, $0, length)
                _ = getsockname(other, $0, &length)
                _ = connect(socket, $0, length)
            }
        }
        var word: UInt16 = 0xABCD
        name.withMemoryRebound(to: sockaddr.self, capacity: 1) { _ = sendto(other, &word, 2, 0, $0, length) }
        Glibc.close(other)
        send(socket, &word, 2, 0)
    }

    /// Closes the socket and binds its port anew, which only works where nobody has it any more.
    func bindsItsPortAgain() -> Bool {
        Glibc.close(socket)
        let again = Glibc.socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
        defer { dup2(again, socket) }
        return name.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(again, $0, 16) } == 0
    }

    /// Closes the end that an engine read from; whether the other one hears of it.
    func tunnelIsGoneOnceClosed() -> Bool {
        Glibc.close(tunnel)
        defer { dup2(pods, tunnel) }
        return write(pods, [0], 1) < 0 && errno == ECONNREFUSED
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
// long: an engine's life, from its first buffer to its end.
private func exercise<Engine: PacketEngine & ~Copyable>(_ engine: inout Engine, _ ends: Ends) throws {
    let memory = ends.memory
    var result: Int32
    // A read that does not wait finds nothing.
    engine.read(into: 0, isPending: false)
    result = engine.enter(waitingFor: 1, timeoutMicroseconds: 100_000)
    #expect(result == 0)
    let dry = try next(&engine)
    #expect(dry.kind == .read && dry.index == 0 && dry.result == -Int(EAGAIN))

    // A pending one is ended by the frame that comes, a burst takes the frames behind it in order.
    engine.read(into: 1, isPending: true)
    result = engine.enter(waitingFor: 0, timeoutMicroseconds: -1)
    #expect(result == 0)
    let early = engine.nextCompletion()
    #expect(early?.kind == nil)
    for byte in 1...3 as ClosedRange<UInt8> { write(ends.pods, [byte, byte], 2) }
    let pending = try next(&engine)
    #expect(pending.kind == .read && pending.index == 1 && pending.result == 2)
    #expect(memory.tunnelBuffer(1).load(fromByteOffset: PacketMemory.virtioHeaderOffset, as: UInt8.self) == 1)
    engine.read(into: 2, isPending: false)
    engine.read(into: 3, isPending: false)
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
        #expect(received.source == .v4(IPv4Address(127, 0, 0, 1)))
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

    let calls = engine.systemCalls
    #expect(calls > 0)
}

/// Has a read pending and the receive armed, and is told to end as a worker is, by a wake-up.
private func beginAndWake<Engine: PacketEngine & ~Copyable>(_ engine: inout Engine, _ ends: Ends) throws {
    engine.read(into: 0, isPending: true)
    for buffer in 0..<4 { engine.provide(buffer) }
    let entered = engine.enter(waitingFor: 0, timeoutMicroseconds: -1)
    #expect(entered == 0)
    eventfd_write(ends.wake, 1)
    let woken = try next(&engine)
    #expect(woken.kind == .wake)
}

/// A datagram waits on the receiving socket, and before it an error that an ICMP message left there.
private func receiveBehindAnError<Engine: PacketEngine & ~Copyable>(
    _ engine: inout Engine, _ ends: Ends
) throws {
    for buffer in 0..<4 { engine.provide(buffer) }
    let received = try next(&engine)
    #expect(received.kind == .receive)
    let datagrams = ReceivedDatagrams(ends.memory.datagramBuffer(received.index))
    #expect(datagrams.length == 2 && datagrams.payload.load(as: UInt16.self) == 0xABCD)
}

/// A send meets such an error: it does nothing else, and the next one is sent.
private func sendBehindAnError<Engine: PacketEngine & ~Copyable>(_ engine: inout Engine, _ ends: Ends) throws
{
    ends.vector.pointee = iovec(iov_base: ends.memory.tunnelBuffer(4), iov_len: 2)
    ends.memory.messages[2] = msghdr(
        msg_name: ends.name, msg_namelen: 16, msg_iov: ends.vector, msg_iovlen: 1, msg_control: nil,
        msg_controllen: 0, msg_flags: 0)
    engine.send(2)
    let first = try next(&engine)
    #expect(first.kind == .send && first.index == 2 && first.result == -Int(ECONNREFUSED))
    engine.send(2)
    let second = try next(&engine)
    #expect(second.kind == .send && second.result == 2)
}

/// Takes nothing in any more, with a read pending and the receives armed, and then takes in what came meanwhile.
private func cease<Engine: PacketEngine & ~Copyable>(_ engine: inout Engine, _ ends: Ends) throws {
    engine.read(into: 0, isPending: true)
    for buffer in 0..<4 { engine.provide(buffer) }
    var entered = engine.enter(waitingFor: 0, timeoutMicroseconds: -1)
    #expect(entered == 0)
    engine.cease()
    let cancelled = try next(&engine)
    #expect(cancelled.kind == .read && cancelled.index == 0 && cancelled.result == -Int(ECANCELED))
    for _ in 0..<10 {
        let none = engine.nextCompletion()
        #expect(none?.kind == nil)
        if engine.hasCeased { break }
        entered = engine.enter(waitingFor: 1, timeoutMicroseconds: 1000)
        #expect(entered == 0)
    }
    let hasCeased = engine.hasCeased
    #expect(hasCeased)

    // What comes now waits, while sends go on: a message to ourselves comes to the socket.
    write(ends.pods, [7, 7], 2)
    ends.vector.pointee = iovec(iov_base: ends.memory.tunnelBuffer(4), iov_len: 2)
    ends.memory.messages[2] = msghdr(
        msg_name: ends.name, msg_namelen: 16, msg_iov: ends.vector, msg_iovlen: 1, msg_control: nil,
        msg_controllen: 0, msg_flags: 0)
    engine.send(2)
    let sent = try next(&engine)
    #expect(sent.kind == .send && sent.result == 2)
    entered = engine.enter(waitingFor: 0, timeoutMicroseconds: -1)
    let nothing = engine.nextCompletion()
    #expect(nothing?.kind == nil)

    engine.resume()
    engine.read(into: 0, isPending: true)
    var kinds: Set<OperationKind> = []
    for _ in 0..<2 { kinds.insert(try next(&engine).kind) }
    #expect(kinds == [.read, .receive])
}

/// A scene of a test: an engine, and what it is tried on.
private enum Scene {
    case exercise, receiveBehindAnError, sendBehindAnError, cease
}

@Suite struct EnginesTests {
    private func play(_ scene: Scene, usesUring: Bool) throws {
        let ends = Ends()
        defer { ends.close() }
        if scene == .receiveBehindAnError || scene == .sendBehindAnError { ends.meetAnError() }
        if usesUring {
            var engine = try UringEngine(
                memory: ends.memory, wake: ends.wake, entries: 64)
            defer { engine.close() }
            let attached = engine.attach(ends.channels)
            #expect(attached == 0)
            try EnginesTests.act(scene, &engine, ends)
        } else {
            var engine = try MmsgEngine(
                memory: ends.memory, wake: ends.wake, entries: 64)
            defer { engine.close() }
            let attached = engine.attach(ends.channels)
            #expect(attached == 0)
            try EnginesTests.act(scene, &engine, ends)
        }
    }

    /// How many of ten engines hold a port or a device after they were closed.
    private func holdingOnceClosed(usesUring: Bool) throws -> Int {
        var holding = 0
        for _ in 0..<10 {
            let ends = Ends()
            defer { ends.close() }
            if usesUring {
                var engine = try UringEngine(
                    memory: ends.memory, wake: ends.wake, entries: 64)
                defer { engine.close() }
                let attached = engine.attach(ends.channels)
                #expect(attached == 0)
                try beginAndWake(&engine, ends)
            } else {
                var engine = try MmsgEngine(
                    memory: ends.memory, wake: ends.wake, entries: 64)
                defer { engine.close() }
                let attached = engine.attach(ends.channels)
                #expect(attached == 0)
                try beginAndWake(&engine, ends)
            }
            let isFree = ends.bindsItsPortAgain()
            if !ends.tunnelIsGoneOnceClosed() || !isFree { holding += 1 }
        }
        return holding
    }

    private static func act<Engine: PacketEngine & ~Copyable>(
        _ scene: Scene, _ engine: inout Engine, _ ends: Ends
    ) throws {
        switch scene {
        case .exercise: try exercise(&engine, ends)
        case .receiveBehindAnError: try receiveBehindAnError(&engine, ends)
        case .sendBehindAnError: try sendBehindAnError(&engine, ends)
        case .cease: try cease(&engine, ends)
        }
    }

    @Test(arguments: [true, false])
    func everyOperationDoesWhatItSays(usesUring: Bool) throws { try play(.exercise, usesUring: usesUring) }

    @Test(arguments: [true, false])
    func whatComesAfterTheEndOfTakingInWaits(usesUring: Bool) throws {
        try play(.cease, usesUring: usesUring)
    }

    @Test(arguments: [true, false])
    func onceClosedItHoldsNeitherThePortNorTheDevice(usesUring: Bool) throws {
        // A process that another test begins just then may have copies of them, until it becomes another program.
        #expect(try holdingOnceClosed(usesUring: usesUring) <= 2)
    }

    @Test(arguments: [true, false])
    func anErrorThatWaitsOnTheSocketLosesNoDatagram(usesUring: Bool) throws {
        try play(.receiveBehindAnError, usesUring: usesUring)
    }

    @Test(arguments: [true, false])
    func anErrorThatWaitsOnTheSocketIsToldToOneSend(usesUring: Bool) throws {
        try play(.sendBehindAnError, usesUring: usesUring)
    }
}
