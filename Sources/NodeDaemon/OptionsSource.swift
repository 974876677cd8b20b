/// Where a running node reads its options again when it is told to (SIGHUP).
package struct OptionsSource: Sendable {
    /// What was given for each option at the start, by the name under which it was given.
    package var given: [String: [String]]
    /// The names of the options that a running node takes over (`Daemon.follow`).
    package var liveNames: Set<String>
    /// Reads all of it again. It blocks, and so runs by `onThread`.
    package var read: @Sendable () throws(ExitFailure) -> Reading

    /// Makes a source.
    package init(
        given: [String: [String]], liveNames: Set<String>,
        read: @escaping @Sendable () throws(ExitFailure) -> Reading
    ) {
        self.given = given
        self.liveNames = liveNames
        self.read = read
    }

    /// What was read.
    package struct Reading: Sendable {
        /// The options as they are written now.
        package var options: NodeOptions
        /// What is given for each, as in `OptionsSource.given`.
        package var given: [String: [String]]
        /// The file that some of them stand in; nil where there is none, so that nothing can have changed.
        package var file: String?

        /// Makes one.
        package init(options: NodeOptions, given: [String: [String]], file: String?) {
            self.options = options
            self.given = given
            self.file = file
        }
    }
}
