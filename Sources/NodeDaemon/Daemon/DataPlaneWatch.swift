// How it works. The packet threads can tell nobody what they meet, and the kernel tells nobody who else has the port.
// So the daemon looks: once a second whether the threads still run, and every three seconds whether the port is
// theirs alone. A thread that ended by itself is started again at once the first time, and then after longer and longer
// pauses; the others go on meanwhile. What can end so is a round that the kernel refuses for good. A trap of the program
// ends the process, and what is kept then is told in docs/operations.md.

import Health
import Host
import Worker

/// What the daemon sees of its data plane from outside.
struct DataPlaneWatch {
    /// Every how many looks the port is looked at: that reads a file with a line for each UDP socket of the machine.
    private static let looksForEachOfPort = 3

    private let health: NodeHealth
    private var restarts: [Int: RestartPause] = [:]
    private var watched: ObjectIdentifier?
    private var looks = 0
    private var settledAt: UInt64 = 0

    init(health: NodeHealth) { self.health = health }

    /// Looks at a data plane; to be called once a second.
    ///
    /// - Returns: the workers whose threads are to be started again now.
    mutating func look(at dataPlane: DataPlane) async -> [Int] {
        if watched != ObjectIdentifier(dataPlane) {
            watched = ObjectIdentifier(dataPlane)
            for index in 0..<max(restarts.count, dataPlane.workerCount) {
                restarts[index, default: RestartPause()].begin(at: .now)
            }
            looks = 0
        }
        if looks % DataPlaneWatch.looksForEachOfPort == 0 {
            let endpoint = dataPlane.underlay
            let intruder = await onThread { dataPlane.intruders().first?.description }
            health.set(
                Component(.port),
                intruder.map {
                    Problem(
                        .cutOff,
                        "UDP \(endpoint) is bound by \($0) too, which gets datagrams of other nodes",
                        remedy: "stop it")
                })
        }
        looks += 1
        settle(dataPlane)
        return lookAtThreads(of: dataPlane)
    }

    /// Lets workers that sleep count what they sent last, once after each time that packets came.
    private mutating func settle(_ dataPlane: DataPlane) {
        let counters = dataPlane.counters()
        let moved = counters[.tunnelReads] &+ counters[.receives]
        if moved != settledAt { dataPlane.settle() }
        settledAt = moved
    }

    private mutating func lookAtThreads(of dataPlane: DataPlane) -> [Int] {
        let failures = Dictionary(
            uniqueKeysWithValues: dataPlane.failures.map { ($0.worker, $0.errorNumber) })
        return (0..<dataPlane.workerCount).filter { index in
            look(at: index, errorNumber: failures[index] ?? 0)
        }
    }

    /// Looks at one thread. Returns whether it is to be started again now.
    private mutating func look(at index: Int, errorNumber: Int32) -> Bool {
        let component = Component(.dataPlane, "thread \(index)")
        switch restarts[index, default: RestartPause()].look(errorNumber: errorNumber, at: .now) {
        case .runs: return false
        case .hasRun:
            health.forget(component)
            return false
        case .runsAgain(let times, let errorNumber):
            health.set(
                component,
                Problem(
                    .degraded,
                    "packet thread \(index) ended by itself, \(times) times of late: \(systemWords(errorNumber))",
                    remedy: "report it with the log"))
            return false
        case .ended(let errorNumber, let pause):
            health.set(
                component,
                Problem(
                    .cutOff, "packet thread \(index) ended: \(systemWords(errorNumber))",
                    remedy: "it is started again in \(pause.components.seconds) s; report it with the log")
            )
            return false
        case .restart:
            restarts[index]?.begin(at: .now)
            return true
        }
    }
}

/// When threads that ended by themselves are started again.
struct RestartPause {
    /// What a look shows.
    enum Finding: Equatable {
        /// They run, and have for long.
        case runs
        /// The same, for the first time since they were started again.
        case hasRun
        /// They were started again not long ago.
        case runsAgain(times: Int, errorNumber: Int32)
        /// They have ended, and rest for a while.
        case ended(errorNumber: Int32, pause: Duration)
        /// They are to be started again now.
        case restart
    }

    /// The second pause (the first one is none), and the longest; each is twice the one before.
    private static let pauses = (second: Duration.seconds(2), longest: Duration.seconds(60))
    /// Threads that ran for so long are well.
    private static let trial = Duration.seconds(60)

    private var failures = 0
    private var lastErrorNumber: Int32 = 0
    private var began: ContinuousClock.Instant?
    private var due: ContinuousClock.Instant?

    /// Notes that threads were started.
    mutating func begin(at now: ContinuousClock.Instant) {
        began = now
        due = nil
    }

    /// Looks at them.
    ///
    /// - Parameter errorNumber: what they ended with; 0 while they run.
    mutating func look(errorNumber: Int32, at now: ContinuousClock.Instant) -> Finding {
        if errorNumber == 0 {
            guard failures > 0 else { return .runs }
            guard let began, now - began < RestartPause.trial else {
                failures = 0
                return .hasRun
            }
            return .runsAgain(times: failures, errorNumber: lastErrorNumber)
        }
        if let due { return now >= due ? .restart : .ended(errorNumber: errorNumber, pause: due - now) }
        if let began, now - began >= RestartPause.trial { failures = 0 }
        lastErrorNumber = errorNumber
        var pause = failures == 0 ? Duration.zero : RestartPause.pauses.second
        for _ in 0..<max(0, min(failures, 10) - 1) { pause = min(pause * 2, RestartPause.pauses.longest) }
        failures += 1
        due = now + pause
        return .ended(errorNumber: errorNumber, pause: pause)
    }
}
