import ArgumentParser

/// The harness's own generator and sink: datagrams without segmentation offload, round trips, connects; traffic whose
/// every byte is checked, and datagrams that are none.
/// Every subcommand prints one JSON object, and says where it and not the network was the limit.
@main
struct Traffic: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "traffic",
        abstract: "Sends, receives, times and checks packets.",
        subcommands: [
            Receive.self, Send.self, Search.self, RoundTrip.self, Connect.self, Transactions.self,
            CheckReceive.self,
            CheckSend.self, Inject.self,
        ])
}
