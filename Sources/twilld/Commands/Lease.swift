import Addresses
import ArgumentParser
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
        static let flags = StoreFlags.flags

        static let configuration = CommandConfiguration(
            commandName: "list", abstract: "List every lease and reservation, with what is wrong with it.")

        @OptionGroup var store: StoreFlags

        func run() async throws {
            let listings = try await store.operate { try await $0.list() }
            print(LeaseTable(listings).text, terminator: "")
        }
    }

    /// `twilld lease reserve`.
    struct Reserve: FlagTaking {
        static let flags = StoreFlags.flags + [GoFlag("public-ip")]

        static let configuration = CommandConfiguration(
            commandName: "reserve",
            abstract: "Keep a subnet for the node with a public address; the reservation never expires.")

        @OptionGroup var store: StoreFlags

        @Option(help: ArgumentHelp("The node's public address.", valueName: "address"))
        var publicIp: IPv4Address

        @Argument(help: ArgumentHelp("The subnet, 10.66.28.0/24.", valueName: "subnet"), completion: .subnets)
        var subnet: SubnetArgument

        func run() async throws {
            try await store.operate { try await $0.reserve(subnet.subnet, publicAddress: publicIp) }
            print("reserved \(subnet.subnet) for \(publicIp)")
        }
    }

    /// `twilld lease release`.
    struct Release: FlagTaking {
        static let flags = StoreFlags.flags

        static let configuration = CommandConfiguration(
            commandName: "release",
            abstract: "Delete a lease or a reservation; a running node that holds it registers again.")

        @OptionGroup var store: StoreFlags

        @Argument(help: ArgumentHelp("The subnet, 10.66.28.0/24.", valueName: "subnet"), completion: .subnets)
        var subnet: SubnetArgument

        func run() async throws {
            try await store.operate { try await $0.release(subnet.subnet) }
            print("released \(subnet.subnet)")
        }
    }
}

/// A lease's subnet on the command line: `10.66.28.0/24`, or as its key has it, `10.66.28.0-24`.
struct SubnetArgument: ExpressibleByArgument {
    let subnet: LeaseSubnet

    init?(argument: String) {
        guard let subnet = LeaseSubnet(key: String(argument.map { $0 == "/" ? "-" : $0 })) else { return nil }
        self.subnet = subnet
    }
}

extension StoreFlags {
    /// Opens the store and does something to it; failures become what the program ends with.
    func operate<Result: Sendable>(
        _ body: (LeaseOperations) async throws -> Result
    ) async throws(ExitFailure) -> Result {
        let options = options
        do {
            let operations = LeaseOperations(store: try await onThread { try options.open() })
            return try await body(operations)
        } catch let error as LeaseStoreError {
            throw ExitFailure(error)
        } catch let error as NetworkConfigurationError {
            throw ExitFailure(.configuration, error.description)
        } catch let error as LeaseOperationError {
            throw ExitFailure(.configuration, error.description)
        } catch {
            throw ExitFailure(.system, "\(error)")
        }
    }
}
