import CLinux
import Glibc
import Worker

/// Another daemon, to which this one hands over: what goes over the connection, step by step. The daemon does the rest in
/// between (Daemon+HandOver.swift).
struct Successor: Sendable {
    /// How long it may take to ask, once it is connected.
    private static let askingMilliseconds: Int32 = 1000
    /// How long it may take to get ready: it makes its threads, memory and rings, perhaps without a CPU to itself. This
    /// daemon forwards meanwhile.
    private static let preparingMilliseconds: Int32 = 30_000
    /// How long it may take to take the descriptors, in which nobody forwards: after that, this daemon does again. It is
    /// less where the queue would be full before (`takingMilliseconds`). Who was too slow comes again at once, and gets the
    /// longest; so one that falls silent costs no more than the first.
    private static let takingMilliseconds: (least: Int32, first: Int32, most: Int32) = (10, 40, 200)
    /// After a failure, for how long the next one is taken to be the same one again.
    static let comesAgainWithin = Duration.seconds(10)

    let connection: HandOverConnection

    /// Waits for its question.
    ///
    /// - Returns: the release that it is of.
    /// - Throws: where it has no right to ask, or asks something else.
    @available(*, noasync, message: "it blocks: use onThread")
    func question() throws(HandOverFailure) -> String {
        guard connection.user == geteuid() else { throw HandOverFailure("who asks is another user") }
        return try receive(.ask, Successor.askingMilliseconds).build ?? "unknown"
    }

    /// Refuses.
    @available(*, noasync, message: "it blocks: use onThread")
    func refuse(_ reason: String) {
        try? connection.send(HandOverMessage(kind: .refusal, build: Version.text, reason: reason))
    }

    /// Offers what there is, and waits until the other one is ready to take it.
    @available(*, noasync, message: "it blocks: use onThread")
    func offer(_ state: HandOverState) throws(HandOverFailure) {
        try send(.offer, state)
        _ = try receive(.ready, Successor.preparingMilliseconds)
    }

    /// How long it may take to take the descriptors, so that the device's queue holds what comes meanwhile.
    ///
    /// - Parameters:
    ///   - queueLength: packets that the queue holds.
    ///   - packets: how many came from it of late.
    ///   - time: in which time.
    ///   - comesAgain: whether another has just failed.
    static func takingMilliseconds(
        queueLength: Int, packets: UInt64, in time: Duration, comesAgain: Bool
    ) -> Int32 {
        let (seconds, attoseconds) = time.components
        let milliseconds = UInt64(clamping: seconds &* 1000 &+ attoseconds / 1_000_000_000_000_000)
        let packetsEachMillisecond = max(packets / max(milliseconds, 1), 1)
        // Half of it: some have come since the worker ceased.
        let filled = UInt64(clamping: queueLength) / 2 / packetsEachMillisecond
        let most = comesAgain ? takingMilliseconds.most : takingMilliseconds.first
        return min(max(Int32(clamping: filled), takingMilliseconds.least), most)
    }

    /// Gives it, and waits until the other one has taken it. First the descriptors, which the other one takes while the state is
    /// made up.
    ///
    /// - Parameters:
    ///   - state: makes it up.
    ///   - named: the descriptors.
    ///   - milliseconds: how long it may take (`takingMilliseconds`).
    /// - Throws: where it has not, and can't any more.
    @available(*, noasync, message: "it blocks: use onThread")
    func give(
        _ state: () -> HandOverState, _ named: NamedDescriptors, withinMilliseconds milliseconds: Int32
    ) throws(HandOverFailure) {
        try send(.given, named)
        try send(.given, state())
        do throws(HandOverFailure) {
            _ = try receive(.mine, milliseconds)
        } catch {
            // It may have said it just now. From here on it can't say it any more, and hears so.
            connection.refuseMore()
            guard let (message, _) = try? connection.receiveWhatIsThere(), message.kind == .mine else {
                throw error
            }
        }
    }

    private func receive(
        _ kind: HandOverMessage.Kind, _ milliseconds: Int32
    ) throws(HandOverFailure) -> HandOverMessage {
        let (message, descriptors) = try connection.receive(withinMilliseconds: milliseconds)
        for descriptor in descriptors { close(descriptor) }
        guard message.kind == kind else { throw HandOverFailure(message.reason ?? "it says something else") }
        return message
    }

    /// Sends descriptors, in as many packets as it takes; another one of the kind follows.
    @available(*, noasync, message: "it blocks: use onThread")
    private func send(
        _ kind: HandOverMessage.Kind, _ named: NamedDescriptors
    ) throws(HandOverFailure) {
        var rest = named.inOrder[...]
        while !rest.isEmpty {
            let part = rest.prefix(Int(TWILL_DESCRIPTORS_AT_ONCE))
            rest = rest.dropFirst(part.count)
            try connection.send(
                HandOverMessage(
                    kind: kind, build: Version.text, descriptors: part.map(\.name), isContinued: true),
                part.map(\.descriptor))
        }
    }

    /// Sends the state, in the last packet of its kind.
    @available(*, noasync, message: "it blocks: use onThread")
    private func send(_ kind: HandOverMessage.Kind, _ state: HandOverState) throws(HandOverFailure) {
        let file = SealedFile.make(state.bytes)
        guard file >= 0 else {
            throw HandOverFailure("there is no memory for the state: \(systemWords(errno))")
        }
        defer { close(file) }
        try connection.send(
            HandOverMessage(
                kind: kind, build: Version.text, descriptors: [HandOverMessage.stateName]), [file])
    }
}
