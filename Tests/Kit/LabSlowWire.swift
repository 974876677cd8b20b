import CNetworkNamespaces
import Glibc
import NetworkNamespaces
import Synchronization

/// A piece of wire before a node on which frames take their time, both ways, as `netem` has it, which not every kernel has.
/// Frames keep their order, and none is lost.
public final class LabSlowWire: Sendable {
    // linux/if_packet.h
    private static let levelPacket: Int32 = 263
    private static let ignoreOutgoing: Int32 = 23
    private static let longestFrameBytes = 65_536

    private struct Frame {
        var bytes: [UInt8]
        var dueAt: ContinuousClock.Instant
    }

    private let ports: [Int32]
    private let delay = Atomic<Int>(0)
    private let isOver = Atomic<Bool>(false)

    /// How long a frame takes in either direction from here on, beside what the wire takes itself.
    public func setDelay(milliseconds: Int) { delay.store(milliseconds, ordering: .relaxed) }

    fileprivate init(between interfaces: [String]) throws {
        ports = try interfaces.map { interface in
            let port = open_frame_socket(interface)
            var isSet: Int32 = 1
            guard port >= 0,
                setsockopt(port, Self.levelPacket, Self.ignoreOutgoing, &isSet, socklen_t(4)) == 0
            else {
                throw NoSocket(description: "no socket for frames: \(String(cString: strerror(errno)))")
            }
            return port
        }
    }

    /// Ends it; nothing passes any more.
    public func end() { isOver.store(true, ordering: .relaxed) }

    fileprivate func start() {
        var thread = pthread_t()
        let code = pthread_create(
            &thread, nil,
            { argument in
                Unmanaged<LabSlowWire>.fromOpaque(argument!).takeRetainedValue().carry()
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
        precondition(code == 0)
        pthread_detach(thread)
    }

    private func carry() {
        defer { for port in ports { close(port) } }
        var bytes = [UInt8](repeating: 0, count: Self.longestFrameBytes)
        // What came in by each port, the oldest first.
        var waiting: [[Frame]] = [[], []]
        while !isOver.load(ordering: .relaxed) {
            let next = waiting.compactMap(\.first?.dueAt).min()
            let pause = next.map { max(0, (ContinuousClock.now.duration(to: $0)) / .milliseconds(1)) } ?? 100
            var descriptors = ports.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            poll(&descriptors, 2, Int32(min(pause.rounded(.up), 100)))
            for (index, port) in ports.enumerated() {
                while true {
                    let count = recv(port, &bytes, bytes.count, Int32(MSG_DONTWAIT))
                    guard count > 0 else { break }
                    let dueAt = ContinuousClock.now + .milliseconds(delay.load(ordering: .relaxed))
                    waiting[index].append(Frame(bytes: Array(bytes[..<count]), dueAt: dueAt))
                }
                while let frame = waiting[index].first, frame.dueAt <= .now {
                    send(ports[1 - index], frame.bytes, frame.bytes.count, 0)
                    waiting[index].removeFirst()
                }
            }
        }
    }
}

extension Lab {
    /// Puts a slow piece between the wire and node `number`. It takes no time until it is told to.
    public func addSlowWire(before number: Int) async throws -> LabSlowWire {
        let slow = try await wire.run {
            try execute(
                """
                ip link set node\(number) nomaster && \
                ip link add slow\(number) type veth peer name socket\(number) && \
                ip link set slow\(number) master wire up && ip link set socket\(number) up
                """)
            return try LabSlowWire(between: ["node\(number)", "socket\(number)"])
        }
        // A checksum that is left to a device would stay so.
        try await self[number].run("ethtool -K eth0 tx off")
        slow.start()
        return slow
    }
}
