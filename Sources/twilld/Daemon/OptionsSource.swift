/// Where a running node reads its options again when it is told to (SIGHUP).
struct OptionsSource: Sendable {
    /// What was given for each option at the start, by the name under which it was given.
    var given: [String: [String]]
    /// The names of the options that a running node takes over: log level and resync interval.
    var liveNames: Set<String>
    /// Reads all of it again. Blocks.
    var read: @Sendable () throws(CommandFailure) -> Reading

    /// What was read.
    struct Reading: Sendable {
        /// The options as they are written now.
        var options: NodeOptions
        /// What is given for each, as in `OptionsSource.given`.
        var given: [String: [String]]
        /// The file that some of them stand in; nil where there is none, so that nothing can have changed.
        var file: String?
    }
}
