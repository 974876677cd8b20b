import Processes

extension RunningProcess {
    /// A flanneld or twilld in this network namespace that keeps the file, or the rules of the device; nil where none
    /// is seen.
    static func nodeDaemon(keeping subnetFile: String, or interfaceName: String) -> RunningProcess? {
        all.first { process in
            guard process != .current, let name = process.name, name == "flanneld" || name == "twilld",
                process.isInNetworkOfThisThread
            else { return false }
            let words = process.commandLine
            // twilld's other commands keep nothing.
            if name == "twilld", let second = words.dropFirst().first, second != "run", !second.hasPrefix("-")
            {
                return false
            }
            return (value(of: "subnet-file", in: words) ?? SubnetFile.defaultPath) == subnetFile
                || (value(of: "tun-name", in: words) ?? "flannel0") == interfaceName
        }
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
