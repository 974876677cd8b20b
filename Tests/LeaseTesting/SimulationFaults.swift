extension Simulation {
    /// How often a store, and the way to it, do what they should not, each from 0 to 1.
    package struct Faults {
        /// A request is not answered, and nothing is done.
        package var failsRequest = 0.0
        /// A write is done, and its answer lost.
        package var losesAnswer = 0.0
        /// An answer comes up to a minute late.
        package var delaysAnswer = 0.0
        /// A watch does not tell of a change.
        package var losesEvent = 0.0
        /// A watch tells of a change twice, the second time some seconds later.
        package var repeatsEvent = 0.0
        /// A watch is ended after a change.
        package var endsWatch = 0.0
        /// The faults that etcd's watches have had, each by its name.
        package var ofWatches: [WatchFault: Double] = [:]

        /// Nothing goes wrong.
        package init() {}

        /// All of them, each now and then.
        package static var everything: Faults {
            var faults = Faults()
            faults.failsRequest = 0.05
            faults.losesAnswer = 0.05
            faults.delaysAnswer = 0.05
            faults.losesEvent = 0.02
            faults.repeatsEvent = 0.1
            faults.endsWatch = 0.05
            for fault in WatchFault.allCases { faults.ofWatches[fault] = fault.usualRate }
            return faults
        }

        /// One fault of the watches alone, whenever there is an occasion for it.
        package static func only(_ fault: WatchFault) -> Faults {
            var faults = Faults()
            faults.ofWatches[fault] = 1
            // Most have their occasion when a watch begins.
            faults.endsWatch = 0.2
            return faults
        }
    }
}

/// A fault that watches of a real etcd have had, and a simulated store has when it is told to.
package enum WatchFault: String, CaseIterable, Sendable {
    /// It stands at a revision of before, and tells changes from there on as if they were new: the member that it is
    /// connected to was cut off.
    case goesBackInTime = "goes-back"
    /// It begins behind a compaction, leaves out what is gone, and does not say so.
    case losesEventsAtCompaction = "compaction"
    /// It leaves out what its reader was too slow for.
    case losesEventsOfSlowReader = "slow-reader"
    /// It leaves out what happened just before it began, as after the restart of a member.
    case losesEventsAtRestart = "member-restart"
    /// Begun after a revision of the future, which a restored store or a member that lags behind has not come to, it
    /// tells old changes.
    case replaysPast = "future-revision"
    /// It says that it stands at a revision whose changes it has not told yet, and ends before it tells them.
    case progressAheadOfEvents = "progress"

    /// The reports of it.
    package var reports: String {
        switch self {
        case .goesBackInTime: "etcd-io/etcd#15271"
        case .losesEventsAtCompaction: "etcd-io/etcd#18089, #19179"
        case .losesEventsOfSlowReader: "etcd-io/etcd#17529"
        case .losesEventsAtRestart: "etcd-io/etcd#17780"
        case .replaysPast: "etcd-io/etcd#20221"
        case .progressAheadOfEvents: "etcd-io/etcd#15220"
        }
    }

    /// How often it occurs among all the others, of the occasions that there are.
    fileprivate var usualRate: Double {
        switch self {
        case .goesBackInTime, .progressAheadOfEvents: 0.02
        case .losesEventsAtCompaction, .losesEventsOfSlowReader: 0.3
        case .losesEventsAtRestart: 0.1
        case .replaysPast: 0.5
        }
    }
}

/// What happened in a simulation, as text and as one number.
package struct SimulationStory {
    /// Told of each line; nil for nobody.
    package var listener: ((String) -> Void)?
    /// FNV-1a of all lines: two runs are the same to the byte where these are equal.
    package private(set) var digest: UInt64 = 0xCBF2_9CE4_8422_2325

    /// Adds a line.
    package mutating func add(_ line: String) {
        for byte in line.utf8 { add(byte) }
        add(UInt8(ascii: "\n"))
        listener?(line)
    }

    private mutating func add(_ byte: UInt8) { digest = (digest ^ UInt64(byte)) &* 0x100_0000_01B3 }
}
