import CLinux
import Engines
import Glibc

/// A ring whose socket sends to itself over the loopback interface, and memory for it: CRingLoop.h.
private final class RingLoop {
    private static let payloadBytes = 64
    private static let receiveBuffers = 16

    private let engine: UnsafeMutablePointer<UringEngine>
    private let memory: PacketMemory
    private let socket: Int32
    private let wake: Int32
    private let vector: UnsafeMutablePointer<iovec>
    private let name: UnsafeMutablePointer<sockaddr_in>

    private init(
        _ engine: UnsafeMutablePointer<UringEngine>, _ memory: PacketMemory, socket: Int32, wake: Int32,
        _ vector: UnsafeMutablePointer<iovec>, _ name: UnsafeMutablePointer<sockaddr_in>
    ) {
        self.engine = engine
        self.memory = memory
        self.socket = socket
        self.wake = wake
        self.vector = vector
        self.name = name
        for buffer in 0..<Self.receiveBuffers { engine.pointee.provide(buffer) }
    }

    /// nil where there is no io_uring.
    static func make() -> RingLoop? {
        let socket = Glibc.socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
        let wake = eventfd(0, 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                _ = bind(socket, $0, length)
                _ = getsockname(socket, $0, &length)
            }
        }
        guard
            let memory = PacketMemory(
                tunnelBufferCount: 1, datagramBufferCount: receiveBuffers, messageCount: 1, hugePages: false)
        else { return nil }
        let vector = UnsafeMutablePointer<iovec>.allocate(capacity: 1)
        vector.initialize(to: iovec(iov_base: memory.tunnelBuffer(0), iov_len: payloadBytes))
        let name = UnsafeMutablePointer<sockaddr_in>.allocate(capacity: 1)
        name.initialize(to: address)
        memory.messages[0].msg_name = UnsafeMutableRawPointer(name)
        memory.messages[0].msg_namelen = length
        memory.messages[0].msg_iov = vector
        memory.messages[0].msg_iovlen = 1
        let engine = UnsafeMutablePointer<UringEngine>.allocate(capacity: 1)
        do throws(UringError) {
            // Nothing is read from the tunnel here: any descriptor does.
            var ring = try UringEngine(memory: memory, wake: wake, entries: 64)
            guard ring.attach(EngineChannels(tunnel: wake, socket: socket, sender: socket)) == 0 else {
                ring.close()
                return nil
            }
            engine.initialize(to: ring)
        } catch {
            return nil
        }
        return RingLoop(engine, memory, socket: socket, wake: wake, vector, name)
    }

    var systemCalls: Int { engine.pointee.systemCalls }

    /// Sends one datagram and takes it in again; false where the ring gave up.
    func roundTrip() -> Bool {
        engine.pointee.send(0)
        var isBack = false
        while !isBack {
            guard engine.pointee.enter(waitingFor: 2, timeoutMicroseconds: 1_000_000) == 0 else {
                return false
            }
            while let completion = engine.pointee.nextCompletion() {
                guard completion.kind == .receive else { continue }
                engine.pointee.provide(completion.index)
                isBack = true
            }
        }
        return true
    }

    func end() {
        engine.pointee.close()
        engine.deinitialize(count: 1).deallocate()
        memory.deallocate()
        vector.deallocate()
        name.deallocate()
        close(socket)
        close(wake)
    }
}

@_cdecl("ring_loop_make")
func makeRingLoop() -> UnsafeMutableRawPointer? {
    RingLoop.make().map { Unmanaged.passRetained($0).toOpaque() }
}

@_cdecl("ring_loop_round_trip")
func roundTrip(_ loop: UnsafeMutableRawPointer) -> Bool {
    Unmanaged<RingLoop>.fromOpaque(loop).takeUnretainedValue().roundTrip()
}

@_cdecl("ring_loop_system_calls")
func systemCalls(_ loop: UnsafeMutableRawPointer) -> Int {
    Unmanaged<RingLoop>.fromOpaque(loop).takeUnretainedValue().systemCalls
}

@_cdecl("ring_loop_end")
func end(_ loop: UnsafeMutableRawPointer) {
    Unmanaged<RingLoop>.fromOpaque(loop).takeRetainedValue().end()
}
