import Addresses
import Devices
import Forwarding
import Glibc
import Worker

/// A data plane that forwards already when the daemon begins, on the queues and sockets of the process before: by what
/// that one knew last, until the store or the cluster says more.
struct InheritedDataPlane: Sendable {
    let dataPlane: DataPlane
    let state: HandOverState

    /// Gets all of one ready but what it gets from the other process.
    ///
    /// - Parameter packetsWait: whether the other process has ended.
    /// - Throws: where the state can't be read, or this machine does not give what it takes.
    @available(*, noasync, message: "it blocks: use onThread")
    static func prepared(
        for state: HandOverState, tuning: Tuning, packetsWait: Bool = false
    ) throws(HandOverFailure) -> DataPlane {
        guard let configuration = state.configuration(tuning: tuning) else {
            throw HandOverFailure("its state names an address that can't be read")
        }
        do throws(DataPlaneError) {
            let dataPlane = try DataPlane(configuration)
            try dataPlane.prepare(packetsWait: packetsWait)
            dataPlane.publish(state.routes)
            return dataPlane
        } catch {
            throw HandOverFailure(error.description)
        }
    }

    /// Gives a data plane its channels; it forwards once it is told to (`run`). What the other process has counted it is told
    /// after that (`continueCounting`).
    ///
    /// - Parameters:
    ///   - dataPlane: what `prepared` made.
    ///   - named: the descriptors; those that are not known here are closed.
    ///   - state: what they were made for.
    /// - Throws: where they are something else; then the data plane has ended, and all descriptors are closed.
    @available(*, noasync, message: "it blocks: use onThread")
    static func attach(
        _ named: NamedDescriptors, _ state: HandOverState, to dataPlane: DataPlane
    ) throws(HandOverFailure) {
        var named = named
        do throws(DataPlaneError) {
            let channels = try WorkerChannels(
                adopting: named, for: dataPlane.configuration,
                offloads: TunnelOffloads(rawValue: state.tunnel.offloads))
            let taken = Set(channels.named.descriptors.values)
            for descriptor in named.descriptors.values where !taken.contains(descriptor) { close(descriptor) }
            named = channels.named
            try dataPlane.attach(channels)
        } catch {
            dataPlane.stop()
            named.close()
            throw HandOverFailure(error.description)
        }
    }
}
