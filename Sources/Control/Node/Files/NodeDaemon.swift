import Processes

extension RunningProcess {
    /// A flanneld or twilld in this network namespace that keeps the file, or the rules of the device; nil where none
    /// is seen.
    static func nodeDaemon(keeping subnetFile: String, or interfaceName: String) -> RunningProcess? {
        all.first { process in
            guard process != .current, let name = process.name, name == "flanneld" || name == "twilld",
                process.isInNetworkOfThisThread, process.keepsNode
            else { return false }
            let words = process.commandLine
            return (value(of: "subnet-file", in: words) ?? SubnetFile.defaultPath) == subnetFile
                || (value(of: "tun-name", in: words) ?? "flannel0") == interfaceName
        }
    }

    /// Another twilld that keeps a node's network in this network namespace; nil where none is seen.
    static var otherNodeDaemon: RunningProcess? {
        all.first { $0 != .current && $0.name == "twilld" && $0.isInNetworkOfThisThread && $0.keepsNode }
    }

    /// Whether its words are those of a daemon: twilld's other commands keep nothing.
    private var keepsNode: Bool {
        guard name == "twilld", let second = commandLine.dropFirst().first else { return true }
        return second == "run" || second.hasPrefix("-")
    }

    /// The value of a flag in Go's words: `-name=value`, `--name value`.
    private static func value(of flag: String, in words: [String]) -> String? {
        for (index, word) in words.enumerated() {
            let name = word.drop { $0 == "-" }
            guard name.count < word.count else { continue }
            if name.hasPrefix("\(flag)=") { return String(name.dropFirst(flag.count + 1)) }
            if name == flag, index + 1 < words.count { return words[index + 1] }
        }
        return nil
    }
}
