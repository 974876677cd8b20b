import Logging
import Synchronization

/// A component and the condition that it is in.
public struct ComponentState: Sendable, Hashable {
    /// What it is.
    public var component: Component
    /// What is wrong with it; nil where it is good.
    public var problem: Problem?
    /// Since when it is so.
    public var since: ContinuousClock.Instant
}

/// The one place where a node's condition is known: readiness, `twilld status`, its problems, the metrics and the log are
/// all read from it.
///
/// Whoever looks after a component says here how it is, as often as it looks; only a change is kept and logged. Any thread
/// may call at any time; no call waits for anything but a lock held for microseconds.
public final class NodeHealth: Sendable {
    private let states = Mutex<[Component: ComponentState]>([:])
    private let logger: Logger?

    /// Makes a health that knows of no component. `logger` is told of each problem when it begins and ends.
    public init(logger: Logger? = nil) { self.logger = logger }

    /// Says how a component is; nil: good.
    public func set(_ component: Component, _ problem: Problem?) {
        let now = ContinuousClock.now
        let before: ComponentState? = states.withLock {
            let before = $0[component]
            if before == nil || before?.problem != problem {
                let since = before?.problem?.effect == problem?.effect ? before?.since : nil
                $0[component] = ComponentState(component: component, problem: problem, since: since ?? now)
            }
            return before
        }
        log(component, from: before, to: problem, now: now)
    }

    /// Says how all components of a kind are: `problems` by their subject. Those of which nothing is said are good.
    public func replace(_ kind: Component.Kind, with problems: [String: Problem]) {
        let known = states.withLock { $0.keys.filter { $0.kind == kind } }
        for component in known where problems[component.subject] == nil { forget(component) }
        for (subject, problem) in problems.sorted(by: { $0.key < $1.key }) {
            set(Component(kind, subject), problem)
        }
    }

    /// Knows no more of a component that is no longer there: what was wrong with it is over.
    public func forget(_ component: Component) {
        let before = states.withLock { $0.removeValue(forKey: component) }
        log(component, from: before, to: nil, now: ContinuousClock.now)
    }

    /// All components, those that cut pods off first, then the degraded, then the good; among equals by name.
    public var all: [ComponentState] {
        states.withLock { Array($0.values) }.sorted { left, right in
            func rank(_ state: ComponentState) -> Int {
                switch state.problem?.effect {
                case .cutOff: 0
                case .degraded: 1
                case nil: 2
                }
            }
            let (leftRank, rightRank) = (rank(left), rank(right))
            return leftRank != rightRank ? leftRank < rightRank : left.component < right.component
        }
    }

    /// What is wrong, the worst first.
    public var problems: [Problem] { all.compactMap(\.problem) }

    /// Whether something keeps this node's pods from the other nodes'.
    public var isCutOff: Bool { states.withLock { $0.values.contains { $0.problem?.effect == .cutOff } } }

    /// What is wrong with a component; nil where it is good, or not known.
    public func problem(of component: Component) -> Problem? { states.withLock { $0[component]?.problem } }

    private func log(
        _ component: Component, from before: ComponentState?, to problem: Problem?,
        now: ContinuousClock.Instant
    ) {
        guard before?.problem != problem, let logger else { return }
        guard let problem else {
            let seconds = before.map { (now - $0.since).components.seconds } ?? 0
            logger.notice(
                .problemOver, metadata: ["component": "\(component)", "after_seconds": "\(seconds)"])
            return
        }
        // The same problem in other words (a number in it counts on) is no news.
        if before?.problem?.effect == problem.effect { return }
        logger.log(
            level: problem.effect == .cutOff ? .error : .warning, .problem,
            metadata: [
                "component": "\(component)", "effect": "\(problem.effect.rawValue)",
                "detail": "\(problem.cause)", "action": "\(problem.remedy)",
            ])
    }
}
