import Glibc

/// Gathers the datagrams that answer one request, matched by its sequence number. What belongs to another
/// request (one that was given up, say) is passed over.
struct Reply {
    /// What the datagrams taken so far amount to.
    enum Status: Hashable {
        /// More must be read.
        case incomplete
        /// All is there.
        case complete
        /// All is there, but a table changed while the kernel read it out: ask again.
        case interrupted
    }

    private let operation: String
    private let sequence: UInt32
    private var wasInterrupted = false

    /// The messages that are neither an acknowledgement nor the end of a dump, since `takeMessages` was called last.
    private(set) var messages: [Message] = []

    /// Gives `messages` away, so that a long list need not be kept as a whole.
    mutating func takeMessages() -> [Message] {
        defer { messages.removeAll(keepingCapacity: true) }
        return messages
    }

    /// Prepares for the answer to request `sequence`; `operation` goes in errors.
    init(to operation: String, sequence: UInt32) {
        self.operation = operation
        self.sequence = sequence
    }

    /// Takes a datagram in, without the routes that are of no interest. Throws the kernel's refusal, or `EBADMSG` for
    /// a datagram that does not parse.
    mutating func take(
        _ datagram: [UInt8], interest: RouteInterest? = nil
    ) throws(NetlinkError) -> Status {
        guard let received = Message.all(in: datagram, interest: interest) else {
            throw NetlinkError(
                operation: operation, code: EBADMSG, message: "the kernel's reply does not parse")
        }
        for message in received where message.sequence == sequence {
            if message.flags.contains(.dumpInterrupted) && message.type != .error { wasInterrupted = true }
            switch message.type {
            case .error, .done:
                try check(message)
                return wasInterrupted ? .interrupted : .complete
            case .noOperation:
                continue
            case .overrun:
                throw NetlinkError(operation: operation, code: ENOBUFS)
            default:
                messages.append(message)
            }
        }
        return .incomplete
    }

    /// Throws what an error message or the end of a dump says, if it is a refusal. Both begin with a negated
    /// error number; an error then repeats the request's header (and, where not capped, its payload).
    private func check(_ message: Message) throws(NetlinkError) {
        let code = message.payload.number(at: 0, as: Int32.self) ?? (message.type == .error ? -EBADMSG : 0)
        guard code < 0 else { return }
        var fixedSize = MemoryLayout<Int32>.size
        if message.type == .error {
            let requestSize = message.payload.number(at: fixedSize, as: UInt32.self).map(Int.init) ?? 0
            fixedSize &+= message.flags.contains(.capped) ? MessageLayout.headerSize : requestSize
        }
        let words =
            message.flags.contains(.hasErrorAttributes)
            ? message.attributes(after: fixedSize).text(ErrorAttribute.message) : nil
        throw NetlinkError(operation: operation, code: 0 &- code, message: words)
    }

    /// `enum nlmsgerr_attrs` of linux/netlink.h.
    private enum ErrorAttribute {
        static let message = 1
    }
}
