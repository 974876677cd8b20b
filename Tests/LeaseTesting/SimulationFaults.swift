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
        /// A watch says that it stands at a revision of before.
        package var goesBack = 0.0
        /// A watch is ended after a change.
        package var endsWatch = 0.0
        /// A watch from before what the store still knows begins without what is gone, and does not say so.
        package var hidesCompaction = 0.0
        /// A watch that begins leaves out what happened just before, as after the restart of a member.
        package var losesEventsAtStart = 0.0
        /// A watch from a revision of the future, which a restored store has not come to, tells of old changes.
        package var replaysPast = 0.0

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
            faults.goesBack = 0.02
            faults.endsWatch = 0.05
            faults.hidesCompaction = 0.3
            faults.losesEventsAtStart = 0.1
            faults.replaysPast = 0.5
            return faults
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
