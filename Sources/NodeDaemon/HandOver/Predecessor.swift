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
        let offered = try receive(.offer, on: connection, Predecessor.answerMilliseconds)
        offered.named.close()
        try Predecessor.check(offered.state, node, tunnelName)
        let dataPlane = try InheritedDataPlane.prepared(for: offered.state, tuning: tuning)
        do throws(HandOverFailure) {
            try connection.send(HandOverMessage(kind: .ready))
            let given = try receive(.given, on: connection, Predecessor.givingMilliseconds)
            guard given.state.tunnel == offered.state.tunnel, given.state.underlay == offered.state.underlay
            else {
                given.named.close()
                throw HandOverFailure("it has got another port or device meanwhile")
            }
            let routes = given.state.routes
            if routes != offered.state.routes { dataPlane.publish(routes) }
            try InheritedDataPlane.attach(given.named, given.state, to: dataPlane)
            try connection.send(HandOverMessage(kind: .mine))
            dataPlane.run()
            return InheritedDataPlane(dataPlane: dataPlane, state: given.state)
        } catch {
            // Its copies of the descriptors; the other daemon has its own.
            dataPlane.stop()
            throw error
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

    /// Receives packets of a kind, with the state among their descriptors.
    @available(*, noasync, message: "it blocks: use onThread")
    private func receive(
        _ kind: HandOverMessage.Kind, on connection: HandOverConnection, _ milliseconds: Int32
    ) throws(HandOverFailure) -> (state: HandOverState, named: NamedDescriptors) {
        var named = NamedDescriptors()
        do throws(HandOverFailure) {
            while true {
                let (message, descriptors) = try connection.receive(withinMilliseconds: milliseconds)
                for (name, descriptor) in zip(message.descriptors ?? [], descriptors) {
                    if let double = named.descriptors.updateValue(descriptor, forKey: name) { close(double) }
                }
                guard message.kind == kind else {
                    throw HandOverFailure(message.reason ?? "it answers something else")
                }
                guard message.isContinued != true else { continue }
                guard let file = named.descriptors.removeValue(forKey: HandOverMessage.stateName) else {
                    throw HandOverFailure("it gives no state")
                }
                defer { close(file) }
                guard let bytes = SealedFile.read(file), let state = try? HandOverState(reading: bytes) else {
                    throw HandOverFailure("its state can't be read")
                }
                return (state, named)
            }
        } catch {
            named.close()
            throw error
        }
    }
}
