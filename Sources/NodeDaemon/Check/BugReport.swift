import FoundationEssentials
import Glibc
import Health
import Host
import Telemetry

/// Everything that somebody needs who is to find out from afar what is wrong with a node: files in one archive, without
/// passwords and keys. Nothing changes by it, and nothing is sent.
package struct BugReport: Sendable {
    /// One file of the archive.
    package struct Section: Sendable, Equatable {
        /// Its name.
        package let name: String
        /// What stands in it, without secrets.
        package let text: String
    }

    /// How much of each file is kept.
    private static let sectionBytes = 4 << 20
    /// How many lines of the log.
    private static let logLines = 2_000

    /// What is run for a file, each.
    private static let commands: [(name: String, command: [String])] = [
        ("links", ["ip", "-details", "-statistics", "link"]), ("addresses", ["ip", "address"]),
        ("routes", ["ip", "route", "show", "table", "all"]),
        ("routes-ipv6", ["ip", "-6", "route", "show", "table", "all"]),
        ("rules", ["ip", "rule"]), ("neighbours", ["ip", "neighbour"]), ("nft", ["nft", "list", "ruleset"]),
        ("iptables", ["iptables-save"]), ("ip6tables", ["ip6tables-save"]), ("sockets", ["ss", "-lunpm"]),
        ("sysctl", ["sysctl", "net.ipv4", "net.core", "net.bridge", "net.netfilter.nf_conntrack_max"]),
        ("log", ["journalctl", "-u", "twilld", "-n", "\(logLines)", "--no-pager"]), ("time", ["timedatectl"]),
    ]

    /// What is read for a file, each.
    private static let files: [(name: String, path: String)] = [
        ("system", "/etc/os-release"), ("kernel", "/proc/version"), ("kernel-command-line", "/proc/cmdline"),
        ("processors", "/proc/cpuinfo"), ("pressure", "/proc/pressure/cpu"), ("interrupts", "/proc/softirqs"),
        ("udp", "/proc/net/udp"), ("snmp", "/proc/net/snmp"), ("netstat", "/proc/net/netstat"),
        ("softnet", "/proc/net/softnet_stat"), ("memory", "/proc/meminfo"), ("uptime", "/proc/uptime"),
    ]

    private let client: StatusClient
    private let subnetFile: String

    /// Prepares a report.
    ///
    /// - Parameters:
    ///   - client: asks the node's daemon.
    ///   - subnetFile: what the daemon writes.
    package init(_ client: StatusClient, subnetFile: String) {
        self.client = client
        self.subnetFile = subnetFile
    }

    /// Gathers everything; some seconds. What cannot be had is said in the place of the text.
    ///
    /// - Parameter doctor: what `twilld doctor` says of this node.
    @available(*, noasync, message: "it blocks: use onThread")
    package func sections(doctor: String) -> [Section] {
        var sections = [
            Section(name: "version.txt", text: Version.line + "\n"),
            Section(name: "doctor.txt", text: doctor),
        ]
        func add(_ name: String, _ text: String) {
            sections.append(Section(name: name, text: Redaction.redacted(text)))
        }
        var process: Int32?
        do throws(ExitFailure) {
            let text = try client.statusText()
            add("status.json", text)
            let status = try? JSONDecoder().decode(NodeStatus.self, from: Data(text.utf8))
            process = status?.processIdentifier
            add("status.txt", status?.text() ?? "")
            add("metrics.txt", try client.metricsText())
        } catch {
            add("status.txt", "\(error.message)\n")
        }
        if let process {
            add("daemon-command-line.txt", Self.words("/proc/\(process)/cmdline"))
            add(
                "daemon-environment.txt",
                Self.words("/proc/\(process)/environ", prefixes: ["FLANNELD_", "TWILLD_"]))
            for name in ["limits", "status", "cgroup"] {
                add("daemon-\(name).txt", Self.file("/proc/\(process)/\(name)"))
            }
        }
        add("subnet.env", Self.file(subnetFile))
        for (name, path) in Self.files { add("\(name).txt", Self.file(path)) }
        for (name, command) in Self.commands { add("\(name).txt", Self.output(of: command)) }
        return sections
    }

    private static func file(_ path: String) -> String {
        do throws(SystemError) {
            return try TextFile.read(path, limit: sectionBytes) ?? "\(path) is not there\n"
        } catch {
            return "\(error)\n"
        }
    }

    /// Words of a file of /proc that ends each with a zero, a line each.
    private static func words(_ path: String, prefixes: [String]? = nil) -> String {
        let lines = file(path).split(separator: "\0").map(String.init)
        return lines.filter { line in prefixes?.contains { line.hasPrefix($0) } ?? true }.map { $0 + "\n" }
            .joined()
    }

    private static func output(of command: [String]) -> String {
        guard let name = command.first, let program = ChildProcess(name) else {
            return "\(command.first ?? "") is not installed\n"
        }
        do throws(ChildProcessError) {
            let result = try program.run(Array(command.dropFirst()), outputLimit: sectionBytes)
            return result.output + result.errors
        } catch {
            return "\(error)\n"
        }
    }
}

/// Takes out of texts what nobody else should know: passwords, tokens, private keys, names and passwords in URLs.
enum Redaction {
    private static let mark = "(redacted)"
    /// Names that a secret follows, in small letters.
    private static let names = ["password", "passwd", "token", "secret", "bearer"]

    /// The text without secrets.
    static func redacted(_ text: String) -> String {
        var isInKey = false
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false).map { line -> String in
            if line.contains("-----BEGIN"), line.contains("PRIVATE KEY") {
                isInKey = true
                return mark
            }
            if isInKey {
                if line.contains("-----END") { isInKey = false }
                return ""
            }
            return withoutUsers(in: withoutValues(in: String(line)))
        }
        return lines.joined(separator: "\n")
    }

    /// `--etcd-password=x`, `--etcd-password x`, `FLANNELD_ETCD_PASSWORD="x y"`, `"token": "x"`, `Bearer x`: the value
    /// goes.
    private static func withoutValues(in line: String) -> String {
        // Most lines have none of them.
        let small = line.lowercased()
        guard names.contains(where: { small.contains($0) }) else { return line }
        var done = ""
        var rest = Array(line)[...]
        while let name = names.compactMap({ first($0, in: rest) }).min(by: { $0.lowerBound < $1.lowerBound })
        {
            let isFlag = rest[..<name.lowerBound].reversed().prefix { !$0.isWhitespace }.reversed().starts(
                with: "--")
            let isBearer = String(rest[name]).lowercased() == "bearer"
            done += rest[..<name.upperBound]
            rest = rest[name.upperBound...]
            let between = rest.prefix { "=: \"'\t".contains($0) }
            done += between
            rest = rest.dropFirst(between.count)
            // In a sentence the word is followed by nothing that is meant to stay hidden.
            guard between.contains("=") || between.contains(":") || isFlag && !between.isEmpty || isBearer
            else {
                continue
            }
            let quote = between.last.flatMap { "\"'".contains($0) ? $0 : nil }
            let value = rest.prefix { character in
                if let quote { return character != quote }
                return !character.isWhitespace && !"\"',;&}".contains(character)
            }
            if !value.isEmpty { done += mark }
            rest = rest.dropFirst(value.count)
        }
        return done + rest
    }

    /// Where a name stands first, however it is written.
    private static func first(_ name: String, in text: ArraySlice<Character>) -> Range<Int>? {
        let wanted = Array(name)
        return text.indices.first { start in
            let there = text[start...].prefix(wanted.count)
            return there.count == wanted.count
                && zip(there, wanted).allSatisfy { $0.lowercased() == String($1) }
        }.map { $0..<$0 + wanted.count }
    }

    /// `https://name:password@host`: what is before the host goes.
    private static func withoutUsers(in line: String) -> String {
        var result = ""
        var rest = line[...]
        while let found = rest.firstRange(of: "://") {
            let host = rest[found.upperBound...].prefix { !$0.isWhitespace && !"/\"',".contains($0) }
            result += rest[..<found.upperBound]
            if let at = host.lastIndex(of: "@") {
                result += mark + host[at...]
            } else {
                result += host
            }
            rest = rest[host.endIndex...]
        }
        return result + rest
    }
}

/// Writes an archive as tar(5) has it (ustar), which everything unpacks.
package enum TarArchive {
    private static let blockBytes = 512

    /// The archive's bytes.
    ///
    /// - Parameters:
    ///   - directory: what the files are in.
    ///   - time: of all files, seconds since 1970.
    package static func bytes(_ sections: [BugReport.Section], in directory: String, unixTime time: Int)
        -> [UInt8]
    {
        var archive: [UInt8] = []
        for section in sections {
            let contents = Array(section.text.utf8)
            archive += head("\(directory)/\(section.name)", length: contents.count, time: time)
            archive += contents
            archive += [UInt8](repeating: 0, count: (blockBytes - contents.count % blockBytes) % blockBytes)
        }
        return archive + [UInt8](repeating: 0, count: 2 * blockBytes)
    }

    private static func head(_ name: String, length: Int, time: Int) -> [UInt8] {
        func field(_ text: String, _ width: Int) -> [UInt8] {
            let bytes = Array(text.utf8.prefix(width))
            return bytes + [UInt8](repeating: 0, count: width - bytes.count)
        }
        func octal(_ number: Int, _ width: Int) -> [UInt8] {
            let digits = String(max(0, number), radix: 8)
            return field(String(repeating: "0", count: max(0, width - 1 - digits.count)) + digits, width)
        }
        var head =
            field(name, 100) + octal(0o600, 8) + octal(0, 8) + octal(0, 8) + octal(length, 12)
            + octal(time, 12)
        head += Array("        0".utf8) + field("", 100) + Array("ustar\u{0}00".utf8) + field("root", 32)
        head += field("root", 32)
        head += [UInt8](repeating: 0, count: blockBytes - head.count)
        let sum = octal(head.reduce(0) { $0 + Int($1) }, 7) + [UInt8(ascii: " ")]
        head.replaceSubrange(148..<156, with: sum)
        return head
    }
}
