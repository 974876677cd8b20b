// How it works. What systemd kept of the process before is taken up before anything else, the command line's words included:
// to read those takes longer than to forward again, and packets wait. So the first data plane has the tuning that a twilld
// has without flags, and the engine that the one before was told; where this one is told something else, another data plane
// follows it without a break, as with SIGHUP. Where the start fails, all goes back into the store.

import FoundationEssentials
import Glibc
import Host
import Synchronization
import Worker

/// What the process before has left with systemd, which forwards already.
package final class Inheritance: Sendable {
    /// What became of it.
    enum Outcome {
        /// The process before has left nothing.
        case nothing
        case forwards(InheritedDataPlane)
        /// It could not be used, for an operator.
        case unusable(HandOverFailure)
    }

    let notification: ServiceNotification
    let store: DescriptorStore
    private let outcome = Mutex(Outcome.nothing)

    /// Takes nothing up yet.
    package init() {
        let environment = ProcessInfo.processInfo.environment
        notification = ServiceNotification(environment: environment)
        store = DescriptorStore(notification, environment: environment)
    }

    /// Forwards on what was left, where something was.
    @available(*, noasync, message: "it blocks: use onThread")
    package func takeUp() {
        guard let (state, named) = store.takeOut(environment: ProcessInfo.processInfo.environment) else {
            return
        }
        var tuning = Tuning()
        tuning.engine = state.engine.flatMap(EngineChoice.init(rawValue:)) ?? tuning.engine
        let found: Outcome
        do throws(HandOverFailure) {
            let dataPlane = try InheritedDataPlane.prepared(for: state, tuning: tuning, packetsWait: true)
            try InheritedDataPlane.attach(named, state, to: dataPlane)
            dataPlane.run()
            dataPlane.continueCounting(from: state.totals)
            found = .forwards(InheritedDataPlane(dataPlane: dataPlane, state: state))
        } catch {
            found = .unusable(error)
        }
        outcome.withLock { $0 = found }
    }

    /// What it came to; whoever calls this has it from here on.
    func take() -> Outcome {
        outcome.withLock { outcome in
            defer { outcome = .nothing }
            return outcome
        }
    }

    /// Puts back what nobody has taken, for the next process: this one can't start.
    @available(*, noasync, message: "it blocks: use onThread")
    package func putBack() {
        if case .forwards(let inherited) = take() { putBack(inherited) }
    }

    /// Ends a data plane, and stores what the next one needs.
    @available(*, noasync, message: "it blocks: use onThread")
    func putBack(_ inherited: InheritedDataPlane) {
        let dataPlane = inherited.dataPlane
        _ = dataPlane.cease()
        if let channels = dataPlane.channels { store.store(channels.named, inherited.state) }
        dataPlane.stop()
    }
}
