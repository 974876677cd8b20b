import CLinux
import FoundationEssentials
import Glibc

/// What two daemons say to each other when one takes over from the other, each in one packet of a SOCK_SEQPACKET socket:
///
/// ```
/// new                                   old
///  ask ──────────────────────────────►
///      ◄────────────────────────────── offer (state), or refusal
///  gets ready
///  ready ────────────────────────────►  takes nothing in any more, works off what it holds
///      ◄────────────────────────────── given (descriptors), in one packet or several
///  takes the descriptors                makes up the state
///      ◄────────────────────────────── given (state)
///  mine ─────────────────────────────►  ends
///  forwards
/// ```
///
/// Whatever happens before `mine`, the old one goes on.
struct HandOverMessage: Codable, Equatable {
    enum Kind: String, Codable {
        case ask, offer, refusal, ready, given, mine
    }

    /// The version of the form: 1. Members that are not known are passed over, so that a later one is read all the same.
    var version = 1
    var kind: Kind
    /// Who says it: the release.
    var build: String?
    /// Why not, for an operator.
    var reason: String?
    /// The names of the descriptors that come with it, in their order.
    var descriptors: [String]?
    /// Whether more of the same kind follow.
    var isContinued: Bool?

    /// The name under which the state comes, in a sealed file in memory.
    static let stateName = "state"
}

/// Why a hand-over came to nothing; the old daemon goes on.
struct HandOverFailure: Error, Equatable, CustomStringConvertible {
    /// A clause for an operator.
    let description: String

    init(_ description: String) { self.description = description }
}

/// One end of a hand-over: packets of JSON, and descriptors.
struct HandOverConnection: Sendable {
    /// Closed by whoever made it.
    let descriptor: Int32

    /// The most that a packet has: names of 250 descriptors are 4 KB.
    private static let packetBytes = 65_536

    /// The user on the other side; nil where the kernel does not tell.
    var user: uid_t? {
        // struct ucred (unix(7)): process, user, group.
        var credentials: [Int32] = [0, 0, 0]
        var size = socklen_t(clamping: credentials.count * MemoryLayout<Int32>.size)
        guard getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0 else { return nil }
        return uid_t(bitPattern: credentials[1])
    }

    /// Sends a packet.
    ///
    /// - Throws: where the other side is gone.
    @available(*, noasync, message: "it blocks: use onThread")
    func send(_ message: HandOverMessage, _ descriptors: [Int32] = []) throws(HandOverFailure) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys]
        guard let bytes = (try? encoder.encode(message)).map({ Array($0) }),
            twill_send_descriptors(
                descriptor, nil, 0, bytes, bytes.count, descriptors, UInt32(clamping: descriptors.count))
                == bytes.count
        else { throw HandOverFailure("the other daemon is gone: \(systemWords(errno))") }
    }

    /// Receives a packet; what comes with it is the caller's to close.
    ///
    /// - Parameter milliseconds: how long to wait for it.
    /// - Throws: where none comes, or something else.
    @available(*, noasync, message: "it blocks: use onThread")
    func receive(
        withinMilliseconds milliseconds: Int32
    ) throws(HandOverFailure) -> (HandOverMessage, [Int32]) {
        var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        guard poll(&entry, 1, milliseconds) == 1 else {
            throw HandOverFailure("the other daemon does not answer")
        }
        return try receiveWhatIsThere()
    }

    /// Receives a packet that has come already.
    @available(*, noasync, message: "it blocks: use onThread")
    func receiveWhatIsThere() throws(HandOverFailure) -> (HandOverMessage, [Int32]) {
        var bytes = [UInt8](repeating: 0, count: HandOverConnection.packetBytes)
        var descriptors = [Int32](repeating: -1, count: Int(TWILL_DESCRIPTORS_AT_ONCE))
        var count: UInt32 = 0
        let length = twill_receive_descriptors(descriptor, &bytes, bytes.count, &descriptors, &count)
        let received = Array(descriptors.prefix(Int(count)))
        guard length > 0 else { throw HandOverFailure("the other daemon is gone") }
        do {
            let message = try JSONDecoder().decode(HandOverMessage.self, from: Data(bytes[..<length]))
            guard (message.descriptors ?? []).count == received.count else { throw HandOverFailure("") }
            return (message, received)
        } catch {
            for descriptor in received { close(descriptor) }
            throw HandOverFailure("the other daemon speaks another language")
        }
    }

    /// Lets nothing more come in; what has come can still be received.
    func refuseMore() { shutdown(descriptor, Int32(SHUT_RD)) }
}

/// Reads and makes files in memory that nobody can change.
enum SealedFile {
    /// The most that is read of one: with 65,536 peers a state has some 16 MB.
    private static let sizeLimit = 64 << 20

    /// A new one; -1 where the kernel gives none.
    @available(*, noasync, message: "it blocks: use onThread")
    static func make(_ bytes: [UInt8]) -> Int32 { twill_sealed_memory("twilld-state", bytes, bytes.count) }

    /// What one holds; nil where it is none, or can still be changed by somebody.
    @available(*, noasync, message: "it blocks: use onThread")
    static func read(_ descriptor: Int32) -> [UInt8]? {
        var information = stat()
        guard twill_is_sealed(descriptor) != 0, fstat(descriptor, &information) == 0,
            (1...sizeLimit).contains(Int(information.st_size))
        else { return nil }
        var bytes = [UInt8](repeating: 0, count: Int(information.st_size))
        var done = 0
        while done < bytes.count {
            let count = bytes.withUnsafeMutableBytes {
                // checked: it has one byte or more
                pread(descriptor, $0.baseAddress! + done, $0.count - done, off_t(done))
            }
            guard count > 0 else { return nil }
            done += count
        }
        return bytes
    }
}
