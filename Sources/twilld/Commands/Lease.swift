import Addresses
import ArgumentParser
import Health
import Host
import Leases
import NodeDaemon

/// `twilld lease`: the leases of the network, in either store.
struct Lease: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lease", abstract: "List, reserve and release the leases of the network.",
        subcommands: [List.self, Reserve.self, Release.self])

    /// `twilld lease list`.
    struct List: FlagTaking {
        static let flags = LeaseStoreFlags.flags

        static let configuration = CommandConfiguration(
            commandName: "list", abstract: "List every lease and reservation, with what is wrong with it.")

        @OptionGroup var store: LeaseStoreFlags
        @OptionGroup var configurationFile: ConfigurationFileFlag

        @Flag(help: "Print the leases as JSON.")
        var json = false

        func run() async throws {
            let listings = try await store.operate(
                instead: "kubectl get nodes -o custom-columns=NAME:.metadata.name,SUBNET:.spec.podCIDR"
            ) { try await $0.list() }
            if json {
                try printDocument(LeaseDocument(listings))
            } else {
                print(LeaseTable(listings).text, terminator: "")
            }
        }
    }

    /// `twilld lease reserve`.
    struct Reserve: FlagTaking {
        static let flags = LeaseStoreFlags.flags + [GoFlag("public-ip")]

        static let configuration = CommandConfiguration(
            commandName: "reserve",
            abstract: "Keep a subnet for the node with a public address; the reservation never expires.")

        @OptionGroup var store: LeaseStoreFlags
        @OptionGroup var configurationFile: ConfigurationFileFlag

        @Option(
            help: ArgumentHelp(
                "The node's public address, IPv6 in a network of that alone.", valueName: "address"))
        var publicIp: IPAddress

        @Argument(
            help: ArgumentHelp("The subnet, 10.66.28.0/24.", valueName: "subnet"), completion: .subnets,
            transform: SubnetArgument.init(checking:))
        var subnet: SubnetArgument

        @Flag(help: "Print what was done as JSON.")
        var json = false

        func run() async throws {
            try await store.operate(
                instead: "nothing: a node keeps its podCIDR for as long as its Node object is there"
            ) { try await $0.reserve(subnet.subnet, publicAddress: publicIp) }
            guard !json else {
                return try printDocument(
                    LeaseChange(action: "reserved", subnet: "\(subnet.subnet)", publicAddress: "\(publicIp)"))
            }
            print("reserved \(subnet.subnet) for \(publicIp)")
        }
    }

    /// `twilld lease release`.
    struct Release: FlagTaking {
        static let flags = LeaseStoreFlags.flags

        static let configuration = CommandConfiguration(
            commandName: "release",
            abstract: "Delete a lease or a reservation; a running node that holds it registers again.")

        @OptionGroup var store: LeaseStoreFlags
        @OptionGroup var configurationFile: ConfigurationFileFlag

        @Argument(
            help: ArgumentHelp("The subnet, 10.66.28.0/24.", valueName: "subnet"), completion: .subnets,
            transform: SubnetArgument.init(checking:))
        var subnet: SubnetArgument

        @Flag(help: "Print what was done as JSON.")
        var json = false

        func run() async throws {
            try await store.operate(instead: "kubectl delete node NAME, for a node that is gone") {
                try await $0.release(subnet.subnet)
            }
            guard !json else {
                return try printDocument(LeaseChange(action: "released", subnet: "\(subnet.subnet)"))
            }
            print("released \(subnet.subnet)")
        }
    }
}

/// What was done to a lease, as `twilld lease reserve --json` and `release --json` print it.
private struct LeaseChange: Encodable {
    let schema = 1
    let action: String
    let subnet: String
    var publicAddress: String?
}

/// A lease's subnet on the command line: `10.66.28.0/24`, `fd00:66:0:1c::/64`, both with a comma, or as its key has it,
/// `10.66.28.0-24`.
struct SubnetArgument {
    let subnet: LeaseSubnet

    /// - Throws: `ValidationError` that says why the text is no subnet.
    init(checking text: String) throws {
        let key = String(text.map { $0 == "/" ? "-" : $0 == "," ? "&" : $0 })
        let isIPv6Alone = key.contains(":") && !key.contains("&")
        if let subnet = LeaseSubnet(key: isIPv6Alone ? "0.0.0.0-0&" + key : key) {
            self.subnet = subnet
            return
        }
        guard let prefix = IPv4Prefix(text) ?? IPv4Prefix(text, separator: "-"), prefix.length > 0 else {
            throw ValidationError("\"\(text.printable)\" is no subnet; it is written like 10.66.28.0/24")
        }
        throw ValidationError(
            "\(text.printable) names an address inside of a subnet; did you mean \(prefix)?")
    }
}
