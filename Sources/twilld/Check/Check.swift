import ArgumentParser

/// `twilld check`: whether this machine can run the daemon.
struct Check: FlagTaking {
    static let flags = Flag.underlay + Flag.tunnel

    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Look at the machine; print a line for each thing that twilld needs, and what to do about it.")

    func run() async throws {
    }
}
