import CLinux
import Glibc

/// A daemon that takes over, and ends at some step of it: what the kernel does then for one that is killed, it does for this
/// one's descriptors.
public enum HandOverClient {
    /// Where it ends.
    public enum Step: CaseIterable, Sendable {
        /// Right after it connected.
        case connected
        /// It has asked, and reads no answer.
        case asked
        /// It has the offer, and gets ready.
        case offered
        /// It is ready, and waits for the descriptors.
        case ready
        /// It has the descriptors.
        case given
        /// It has them, and says nothing for longer than the other waits.
        case silent
    }

    /// Takes over until `step`, and ends there.
    public static func stop(at step: Step, _ path: String, _ host: some LabHost) async throws {
        let isDone: Bool = try await host.namespace.run { play(step, path) }
        guard isDone else { throw NoSocket(description: "no hand-over at \(path) until \(step)") }
    }

    private static func play(_ step: Step, _ path: String) -> Bool {
        let descriptor = socket(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        defer { close(descriptor) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(path.utf8)) }
        let connected = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard connected == 0 else { return false }
        if step == .connected { return true }
        say("ask", on: descriptor)
        if step == .asked { return true }
        guard hear("offer", on: descriptor) else { return false }
        if step == .offered { return true }
        say("ready", on: descriptor)
        if step == .ready { return true }
        guard hear("given", on: descriptor) else { return false }
        if step == .silent { usleep(400_000) }
        return true
    }

    private static func say(_ kind: String, on descriptor: Int32) {
        let text = Array(#"{"kind":"\#(kind)","version":1}"#.utf8)
        _ = send(descriptor, text, text.count, Int32(MSG_NOSIGNAL))
    }

    /// Waits for a packet of a kind; what comes with it is closed.
    private static func hear(_ kind: String, on descriptor: Int32) -> Bool {
        var bytes = [UInt8](repeating: 0, count: 65_536)
        var descriptors = [Int32](repeating: -1, count: Int(TWILL_DESCRIPTORS_AT_ONCE))
        var count: UInt32 = 0
        let length = twill_receive_descriptors(descriptor, &bytes, bytes.count, &descriptors, &count)
        for descriptor in descriptors.prefix(Int(count)) { close(descriptor) }
        return length > 0 && String(decoding: bytes[..<length], as: UTF8.self).contains(#""kind":"\#(kind)""#)
    }
}
