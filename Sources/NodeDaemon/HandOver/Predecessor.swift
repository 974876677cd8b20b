import CLinux
import Glibc
import Health
import Worker

/// The daemon that runs when this one starts, as this one takes over from it.
struct Predecessor {
    /// How long it may take to answer: it may wait for the CPU, and its passes for the kernel.
    private static let answerMilliseconds: Int32 = 5000
    /// How long it may take to work off what it holds.
    private static let givingMilliseconds: Int32 = 3000

    /// Where it listens for whoever takes over.
    let path: String

    /// - Parameter statusSocket: where it answers `twilld status`.
    init(statusSocket: String) { path = HandOverSocket.path(beside: statusSocket) }

    /// Takes over from it. It has ended its part when this returns, and forwards on where this throws.
    ///
    /// - Parameters:
    ///   - node: whose node this is; one of another node is left alone.
    ///   - tunnelName: the device's name.
    ///   - tuning: how the new data plane is tuned.
    /// - Returns: the new data plane, which forwards; nil where nobody hands anything over.
    /// - Throws: why it came to nothing.
    @available(*, noasync, message: "it blocks: use onThread")
    func takeOver(
        node: HandOverState.Node, tunnelName: String, tuning: Tuning
    ) throws(HandOverFailure) -> InheritedDataPlane? {
        guard let connection = connected() else { return nil }
        defer { close(connection.descriptor) }
        guard connection.user == geteuid() else {
            throw HandOverFailure("it belongs to another user")
        }
        try connection.send(HandOverMessage(kind: .ask, build: Version.text))
        var offer = Received()
        try receive(.offer, on: connection, Predecessor.answerMilliseconds, &offer)
        offer.named.close()
        guard let offered = offer.state else { throw HandOverFailure("its state can't be read") }
        try Predecessor.check(offered, node, tunnelName)
        let dataPlane = try InheritedDataPlane.prepared(for: offered, tuning: tuning)
        do throws(HandOverFailure) {
            try connection.send(HandOverMessage(kind: .ready))
            let given = try take(offered, from: connection, dataPlane)
            try connection.send(HandOverMessage(kind: .mine))
            dataPlane.run()
            // Nobody waits any more. It had ceased by then, on what it offered: the state is of the same device and port.
            let state = given.state ?? offered
            if state.routes != offered.routes { dataPlane.publish(state.routes) }
            dataPlane.continueCounting(from: state.totals)
            return InheritedDataPlane(dataPlane: dataPlane, state: state)
        } catch {
            // Its copies of the descriptors; the other daemon has its own.
            dataPlane.stop()
            throw error
        }
    }

    /// Takes the descriptors as soon as all are there: the state, which comes last, takes longer to write.
    @available(*, noasync, message: "it blocks: use onThread")
    private func take(
        _ offered: HandOverState, from connection: HandOverConnection, _ dataPlane: DataPlane
    ) throws(HandOverFailure) -> Received {
        var given = Received()
        var isAttached = false
        while true {
            let isLast = try receivePart(.given, on: connection, Predecessor.givingMilliseconds, &given)
            if !isAttached, isLast || given.named.areComplete(forWorkers: offered.tunnel.workers) {
                isAttached = true
                let named = given.named
                given.named = NamedDescriptors()
                try InheritedDataPlane.attach(named, offered, to: dataPlane)
            }
            if isLast { return given }
        }
    }

    private func connected() -> HandOverConnection? {
        let descriptor = HandOverSocket.unconnected()
        guard descriptor >= 0 else { return nil }
        guard HandOverSocket.call(connect, descriptor, path) else {
            close(descriptor)
            return nil
        }
        return HandOverConnection(descriptor: descriptor)
    }

    /// Whether it is this node's daemon, and not another one's on the same host.
    private static func check(
        _ state: HandOverState, _ node: HandOverState.Node, _ tunnelName: String
    ) throws(HandOverFailure) {
        for (flag, theirs, ours) in [
            ("--tun-name", state.tunnel.name, tunnelName),
            ("--subnet-file", state.node.subnetFile, node.subnetFile),
            ("--state-dir", state.node.stateDirectory, node.stateDirectory),
        ] where theirs != ours {
            throw HandOverFailure("it is another node's: its \(flag) is \(theirs), and not \(ours)")
        }
    }

    /// What came in packets of a kind.
    private struct Received {
        var named = NamedDescriptors()
        /// The state as bytes, which lies in a file among the descriptors.
        var bytes: [UInt8] = []

        /// The state; nil where it can't be read.
        var state: HandOverState? { try? HandOverState(reading: bytes) }
    }

    /// Receives all packets of a kind.
    @available(*, noasync, message: "it blocks: use onThread")
    private func receive(
        _ kind: HandOverMessage.Kind, on connection: HandOverConnection, _ milliseconds: Int32,
        _ received: inout Received
    ) throws(HandOverFailure) {
        while try !receivePart(kind, on: connection, milliseconds, &received) {}
    }

    /// Receives a packet of a kind.
    ///
    /// - Returns: whether it is the last one.
    /// - Throws: where none comes, or something else; what came before is closed then.
    @available(*, noasync, message: "it blocks: use onThread")
    private func receivePart(
        _ kind: HandOverMessage.Kind, on connection: HandOverConnection, _ milliseconds: Int32,
        _ received: inout Received
    ) throws(HandOverFailure) -> Bool {
        do throws(HandOverFailure) {
            let (message, descriptors) = try connection.receive(withinMilliseconds: milliseconds)
            for (name, descriptor) in zip(message.descriptors ?? [], descriptors) {
                let double = received.named.descriptors.updateValue(descriptor, forKey: name)
                if let double { close(double) }
            }
            guard message.kind == kind else {
                throw HandOverFailure(message.reason ?? "it answers something else")
            }
            guard message.isContinued != true else { return false }
            guard let file = received.named.descriptors.removeValue(forKey: HandOverMessage.stateName) else {
                throw HandOverFailure("it gives no state")
            }
            defer { close(file) }
            guard let bytes = SealedFile.read(file) else { throw HandOverFailure("its state can't be read") }
            received.bytes = bytes
            return true
        } catch {
            received.named.close()
            throw error
        }
    }
}
