import ArgumentParser
import FoundationEssentials
import Glibc
import Health
import Host
import Leases
import NodeDaemon

/// `twilld network`: the configuration of the whole network.
struct Network: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "network", abstract: "Show and set the network config that all nodes share.",
        subcommands: [Show.self, Set.self])

    /// Where a cluster has it.
    private static let insteadOfStore =
        "kubectl edit configmap, of the one whose net-conf.json is mounted at --net-config-path"

    /// `twilld network show`.
    struct Show: FlagTaking {
        static let flags = LeaseStoreFlags.flags

        static let configuration = CommandConfiguration(
            commandName: "show", abstract: "Print the network config as the store has it, and what it means.")

        @OptionGroup var store: LeaseStoreFlags
        @OptionGroup var configurationFile: ConfigurationFileFlag

        @Flag(help: "Print it, and what it means, as a JSON document.")
        var json = false

        func run() async throws {
            let (text, meaning) = try await store.operate(instead: Network.insteadOfStore) {
                try await $0.network()
            }
            if json { return try printDocument(NetworkDocument(text, meaning)) }
            // Ends of lines stay; nothing else in it steers a terminal.
            for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
                print(String(line.replacing("\t", with: "    ").replacing("\r", with: "")).printable)
            }
            // What the JSON leaves to defaults is the question that brings people here; the JSON alone is for pipes.
            StandardError.write(
                """
                \(meaning.sideTexts.joined(separator: "\n"))
                backend \(meaning.backend)
                """)
        }
    }

    /// `twilld network set`.
    struct Set: FlagTaking {
        static let flags = LeaseStoreFlags.flags

        static let configuration = CommandConfiguration(
            commandName: "set",
            abstract: "Check a network config and write it to the store.",
            discussion: #"Example: echo '{"Network": "10.66.0.0/16"}' | twilld network set -"#)

        @OptionGroup var store: LeaseStoreFlags
        @OptionGroup var configurationFile: ConfigurationFileFlag

        @Argument(
            help: ArgumentHelp("File with the config, JSON; - for standard input.", valueName: "file"),
            completion: .file())
        var file: String

        @Flag(help: "Print what was done, and the remarks, as JSON.")
        var json = false

        func run() async throws {
            let configuration = try await onThread { () throws(ExitFailure) in try text() }
            let remarks = try await store.operate(instead: Network.insteadOfStore) {
                try await $0.setNetwork(configuration)
            }
            if json { return try printDocument(NetworkChange(remarks: remarks)) }
            print("network config written")
            for remark in remarks { print(remark) }
        }

        /// The file's text, or what comes by standard input, be it from a person who types.
        @available(*, noasync, message: "it blocks: use onThread")
        private func text() throws(ExitFailure) -> String {
            if file == "-" {
                var text = ""
                while let line = readLine(strippingNewline: false) { text += line }
                return text
            }
            do {
                return try String(contentsOfFile: file, encoding: .utf8)
            } catch {
                if file.contains("{") {
                    throw ExitFailure(
                        .usage,
                        "the config is given by a file, or on standard input: echo '…' | twilld network set -"
                    )
                }
                throw ExitFailure(.usage, "the file \(file.printable) can't be read: \(plainWords(error))")
            }
        }
    }
}

extension NetworkConfiguration {
    /// How each family is cut into subnets.
    fileprivate var sideTexts: [String] {
        [
            ipv4.map {
                "network \($0.network), a /\($0.subnetLength) for each node, \($0.subnetMinimum) to \($0.subnetMaximum)"
            },
            ipv6.map {
                "network \($0.network), a /\($0.subnetLength) for each node, \($0.subnetMinimum) to \($0.subnetMaximum)"
            },
        ].compactMap(\.self)
    }
}

/// What `twilld network set --json` prints.
private struct NetworkChange: Encodable {
    let schema = 1
    let action = "written"
    /// Keys that nobody knows, a sentence each.
    let remarks: [String]
}

/// The network's configuration as `twilld network show --json` prints it.
private struct NetworkDocument: Encodable {
    let schema = 1
    /// As the store has it.
    let configuration: String
    let network: String?
    let subnetLength: Int?
    let subnetMinimum: String?
    let subnetMaximum: String?
    let ipv6Network: String?
    let ipv6SubnetLength: Int?
    let ipv6SubnetMinimum: String?
    let ipv6SubnetMaximum: String?
    let backend: String

    init(_ text: String, _ meaning: NetworkConfiguration) {
        configuration = text
        let (ipv4, ipv6) = (meaning.ipv4, meaning.ipv6)
        network = ipv4.map { "\($0.network)" }
        subnetLength = ipv4?.subnetLength
        subnetMinimum = ipv4.map { "\($0.subnetMinimum)" }
        subnetMaximum = ipv4.map { "\($0.subnetMaximum)" }
        ipv6Network = ipv6.map { "\($0.network)" }
        ipv6SubnetLength = ipv6?.subnetLength
        ipv6SubnetMinimum = ipv6.map { "\($0.subnetMinimum)" }
        ipv6SubnetMaximum = ipv6.map { "\($0.subnetMaximum)" }
        backend = "\(meaning.backend)"
    }
}
