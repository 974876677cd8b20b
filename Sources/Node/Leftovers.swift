import Addresses
import CLinux
import Glibc
import Netlink

/// What outlives the daemon on a node: rules, the blackhole route, a device that somebody made persistent, files.
public struct Leftovers: Sendable {
    /// The tunnel device's name.
    public var interfaceName: String
    /// `subnet.env`.
    public var subnetFile: String
    /// The status socket of a daemon that was killed.
    public var statusSocket: String

    /// Names what to look for.
    public init(interfaceName: String, subnetFile: String, statusSocket: String) {
        self.interfaceName = interfaceName
        self.subnetFile = subnetFile
        self.statusSocket = statusSocket
    }

    /// What a removal came to.
    public struct Outcome: Sendable, Hashable {
        /// What was there and is gone, a few words each.
        public var removed: [String] = []
        /// What is there still, and why; one sentence each.
        public var failures: [String] = []
        /// The subnet that `subnet.env` named.
        public var subnet: IPv4Prefix?
    }

    /// Whose these things are: a daemon that runs, which would be cut off by their removal, or put them back. A sentence
    /// that names it; nil where nobody is. Only looks.
    public func owner() throws -> String? {
        if try RouteSocket().link(named: interfaceName) != nil, let flags = try tunFlags() {
            if let holder = RunningDaemons.holder(ofTunnel: interfaceName) {
                return "\(holder) holds the device \(interfaceName)"
            }
            // A device that is not persistent goes with the last process that holds it.
            if flags & UInt32(IFF_PERSIST) == 0 { return "a process holds the device \(interfaceName)" }
        }
        // flanneld of another backend has no such device, and the same file and rules.
        if let daemon = RunningDaemons.flanneld(subnetFile: subnetFile, interfaceName: interfaceName) {
            return "\(daemon) runs here"
        }
        return nil
    }

    /// Removes all of it; what cannot be removed keeps nothing else from it. No daemon may run (`owner`). Its calls start
    /// child processes and wait for them.
    public func remove() -> Outcome {
        var outcome = Outcome()
        func attempt(_ what: String, _ body: () throws -> [String]) {
            do { outcome.removed += try body() } catch { outcome.failures.append("\(what): \(error)") }
        }
        attempt("packet filter rules") { try PacketFilter.removeAll(interfaceName: interfaceName) }
        attempt(subnetFile) {
            outcome.subnet = try SubnetFileValues(path: subnetFile)?.subnet
            return []
        }
        // Only the file says which subnet it was: without it, somebody else's route might be taken for ours.
        if let subnet = outcome.subnet {
            attempt("blackhole route") { try removeBlackholeRoute(subnet) }
        }
        attempt("device \(interfaceName)", removeDevice)
        for path in [subnetFile, statusSocket] {
            attempt(path) { try removeFile(path) }
        }
        return outcome
    }

    private func removeBlackholeRoute(_ subnet: IPv4Prefix) throws -> [String] {
        let route = BlackholeRoute(subnet: subnet)
        let socket = try RouteSocket()
        guard route.isPresent(in: try socket.routes()) else { return [] }
        try route.withdraw(using: socket)
        return [route.name]
    }

    /// The flags of the TUN device (`IFF_*` of linux/if_tun.h); nil where it is none.
    private func tunFlags() throws -> UInt32? {
        let text = try TextFile.read("/sys/class/net/\(interfaceName)/tun_flags")
        return (text?.dropFirst(2).prefix { $0.isHexDigit }).flatMap { UInt32($0, radix: 16) }
    }

    /// A device goes with its daemon, unless `ip tuntap add` made it: such a one is persistent.
    private func removeDevice() throws -> [String] {
        let socket = try RouteSocket()
        guard let link = try socket.link(named: interfaceName) else { return [] }
        guard let flags = try tunFlags() else {
            throw LeftoverError(description: "it is no TUN device; twilld did not make it")
        }
        guard flags & UInt32(IFF_PERSIST) != 0 else {
            throw LeftoverError(description: "a process holds it; stop that one")
        }
        try socket.deleteLink(index: link.index)
        return ["device \(interfaceName)"]
    }

    private func removeFile(_ path: String) throws -> [String] {
        guard unlink(path) != 0 else { return [path] }
        let code = errno
        guard code != ENOENT && code != ENOTDIR else { return [] }
        throw TextFile.Failure(path: path, code: code)
    }
}

struct LeftoverError: Error, CustomStringConvertible {
    let description: String
}

/// Processes that keep a node's network, found in `/proc`.
enum RunningDaemons {
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

    /// A flanneld in this network namespace that keeps the same file, or the rules of the same device.
    static func flanneld(subnetFile: String, interfaceName: String) -> String? {
        for process in processes() where isOfThisNetwork(process) && command(of: process) == "flanneld" {
            let text = (try? TextFile.read("/proc/\(process)/cmdline")) ?? ""
            let words = text.split(separator: "\0").map(String.init)
            let file = value(of: "subnet-file", in: words) ?? SubnetFile.defaultPath
            // Its rules have the names that those of flannel0 have.
            if file == subnetFile || interfaceName == "flannel0" { return describe(process) }
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
        (try? TextFile.read("/proc/\(process)/comm"))?.split(whereSeparator: \.isNewline).first.map(String.init)
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
        entries(of: "/proc").filter { $0.utf8.allSatisfy { (0x30...0x39).contains($0) } && $0 != "\(getpid())" }
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
