import ArgumentParser

/// The harness's own generator and sink: datagrams without segmentation offload, round trips, connects.
/// Every subcommand prints one JSON object, and says where it and not the network was the limit.
@main
struct Traffic: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "traffic",
        abstract: "Sends, receives and times small packets.",
        subcommands: [
            Receive.self, Send.self, Search.self, RoundTrip.self, Connect.self,
        ])
}
