import Foundation

/// A tuning flag of `twilld`, what it stands at, and what the search tries in its place.
struct TunedFlag: Codable, Equatable {
    let name: String
    let defaultValue: String
    /// Without the default.
    let values: [String]

    /// What is worth trying of each flag: a step to both sides of where defaults have been. What a machine or the
    /// other flags do not allow, the daemon refuses by name, and the table says so.
    private static func catalogue(processors: Int) -> [(name: String, values: [String])] {
        let workers = sequence(first: 2) { $0 * 2 }.prefix { $0 <= processors }.map(String.init)
        let either = ["true", "false"]
        return [
            ("engine", ["mmsg"]),
            ("workers", workers),
            ("cpus", [Candidate.processorsPlaceholder]),
            ("batch", ["16", "32", "64"]),
            ("super-packet-batch", ["4", "8", "16", "32"]),
            ("receive-buffers", ["8", "16", "64"]),
            ("receive-buffer-size", ["16384"]),
            ("ring-entries", ["1024", "4096"]),
            ("minimum-wait", ["0", "20", "200"]),
            ("busy-poll", ["0", "50", "200"]),
            ("sq-poll", either),
            ("udp-gso", either), ("udp-gro", either),
            ("tun-tso4", either), ("tun-uso", either), ("tun-ecn", either), ("tun-tso6", either),
            ("socket-buffer", ["1048576", "16777216", "33554432"]),
            ("queue-length", ["250", "1000", "4000", "16384"]),
            ("huge-pages", either),
            ("kernel-path", ["off"]),
            ("kernel-path-bytes", ["128", "512", "1024"]),
        ]
    }

    /// The flags that `twilld` has, as it stands there.
    static func all(defaults: [String: String], processors: Int) -> [TunedFlag] {
        catalogue(processors: processors).compactMap { name, values in
            guard let value = defaults[name] else { return nil }
            return TunedFlag(name: name, defaultValue: value, values: values.filter { $0 != value })
        }
    }

    /// The default of each flag that a `twilld` has, from the description of its command line that
    /// ArgumentParser prints.
    static func defaults(of twilld: String) throws -> [String: String] {
        struct Description: Decodable {
            struct Command: Decodable { let arguments: [Argument] }
            struct Argument: Decodable {
                struct Name: Decodable { let name: String }
                let names: [Name]?
                let defaultValue: String?
            }
            let command: Command
        }
        let text = try output(of: [twilld, "run", "--experimental-dump-help"])
        let description: Description
        do {
            description = try JSONDecoder().decode(Description.self, from: Data(text.utf8))
        } catch {
            throw CommandError(description: "\(twilld) does not describe its flags as expected: \(error)")
        }
        var defaults: [String: String] = [:]
        for argument in description.command.arguments {
            for name in argument.names ?? [] { defaults[name.name] = argument.defaultValue }
        }
        return defaults
    }
}
