import Glibc

/// Processes that hold what a node's network is made of, found in `/proc`: only looks, and never waits.
enum RunningProcesses {
    /// The name and number of the process that holds a TUN device in this network namespace; nil where none is seen.
    static func holder(ofTunnel name: String) -> String? {
        for process in processes() where isOfThisNetwork(process) {
            for entry in entries(of: "/proc/\(process)/fdinfo") {
                // tun_chr_show_fdinfo in the kernel's drivers/net/tun.c.
                guard let text = try? TextFile.read("/proc/\(process)/fdinfo/\(entry)"),
                    text.split(whereSeparator: \.isNewline).contains("iff:\t\(name)")
                else { continue }
                return describe(process)
            }
        }
        return nil
    }

    /// A flanneld or twilld in this network namespace that keeps the file, or the rules of the device.
    static func keeper(ofFile subnetFile: String, interfaceName: String) -> String? {
        for process in processes() where isOfThisNetwork(process) {
            guard let command = command(of: process), command == "flanneld" || command == "twilld" else {
                continue
            }
            let text = (try? TextFile.read("/proc/\(process)/cmdline")) ?? ""
            let words = text.split(separator: "\0").map(String.init)
            // twilld's other commands keep nothing.
            if command == "twilld", let second = words.dropFirst().first, second != "run",
                !second.hasPrefix("-")
            {
                continue
            }
            let file = value(of: "subnet-file", in: words) ?? SubnetFile.defaultPath
            let device = value(of: "tun-name", in: words) ?? "flannel0"
            if file == subnetFile || device == interfaceName { return describe(process) }
        }
        return nil
    }

    /// Who holds the lock of flock(2) on a file; nil where the kernel does not tell.
    static func holder(ofLock path: String) -> String? {
        var file = stat()
        guard stat(path, &file) == 0, let locks = try? TextFile.read("/proc/locks") else { return nil }
        // "1: FLOCK  ADVISORY  WRITE 812 00:1a:5 0 EOF": who took it, and major:minor:inode of the file.
        for line in locks.split(whereSeparator: \.isNewline) {
            let words = line.split(separator: " ")
            guard words.count >= 6, words[1] == "FLOCK", words[5].hasSuffix(":\(file.st_ino)") else {
                continue
            }
            let taker = String(words[4])
            if command(of: taker) != nil { return describe(taker) }
            // flock(1) takes a lock for the shell that called it, and ends.
            return opener(of: file).map(describe)
        }
        return nil
    }

    /// A process that has the file open and is no iptables, which only waits for it.
    private static func opener(of file: stat) -> String? {
        for process in processes() where command(of: process)?.contains("tables") == false {
            for entry in entries(of: "/proc/\(process)/fd") {
                var other = stat()
                guard stat("/proc/\(process)/fd/\(entry)", &other) == 0, other.st_ino == file.st_ino,
                    other.st_dev == file.st_dev
                else { continue }
                return process
            }
        }
        return nil
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

    private static func command(of process: String) -> String? {
        (try? TextFile.read("/proc/\(process)/comm"))?.split(whereSeparator: \.isNewline).first.map(
            String.init)
    }

    private static func describe(_ process: String) -> String {
        "\(command(of: process) ?? "a program") (process \(process))"
    }

    private static func isOfThisNetwork(_ process: String) -> Bool {
        var own = stat()
        var other = stat()
        return stat("/proc/thread-self/ns/net", &own) == 0 && stat("/proc/\(process)/ns/net", &other) == 0
            && own.st_ino == other.st_ino && own.st_dev == other.st_dev
    }

    private static func processes() -> [String] {
        entries(of: "/proc").filter {
            $0.utf8.allSatisfy { (0x30...0x39).contains($0) } && $0 != "\(getpid())"
        }
    }

    private static func entries(of path: String) -> [String] {
        guard let directory = opendir(path) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
                String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name != "." && name != ".." { names.append(name) }
        }
        return names
    }
}
