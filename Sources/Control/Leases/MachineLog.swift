package import Health
package import Logging

/// What a machine says in the log: of each event as much as its budget allows, and of a topic each value once.
package struct MachineLog {
    private var pacing = ReportPacing()
    private var values: [String: String] = [:]

    /// Makes a log in which nothing was said yet.
    package init() {}

    /// The value of a topic that was said last; nil where none was, or where it may be said again.
    package subscript(topic: String) -> String? {
        get { values[topic] }
        set { values[topic] = newValue }
    }

    /// Takes from an event's budget.
    ///
    /// - Returns: the line with the number of those left out before it; nil where it is to be left out itself.
    fileprivate mutating func admit(_ report: LeaseReport, now: ContinuousClock.Instant) -> LeaseReport? {
        guard let suppressed = pacing.take(report.event, now: now) else { return nil }
        var report = report
        if suppressed > 0 { report.fields["left_out"] = "\(suppressed)" }
        return report
    }
}

/// A machine without I/O whose turns lead to lines of the log, among other things.
package protocol LoggingMachine {
    /// What it said.
    var log: MachineLog { get set }
    /// The time of the turn.
    var turnTime: ContinuousClock.Instant { get }

    /// Adds a line to what the turn leads to.
    mutating func add(_ report: LeaseReport)
}

extension LoggingMachine {
    /// Says what happened, within the event's budget.
    package mutating func report(_ level: Logger.Level, _ event: EventName, _ fields: [String: String]) {
        report(LeaseReport(level, event, fields))
    }

    /// Says what happened, within the event's budget.
    package mutating func report(_ report: LeaseReport) {
        if let admitted = log.admit(report, now: turnTime) { add(admitted) }
    }

    /// Reports once for each `value` that `topic` takes.
    package mutating func say(_ topic: String, _ value: String, _ report: LeaseReport) {
        guard log[topic] != value else { return }
        log[topic] = value
        self.report(report)
    }
}
