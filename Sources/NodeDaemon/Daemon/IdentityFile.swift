import Addresses
import FoundationEssentials
import Glibc
import Health
import Leases

/// Keeps what tells this node from another that announces the same address, across restarts and reboots:
/// docs/adr/0023.
///
/// `DIRECTORY/identity` holds the identity alone, which is what every release reads. `DIRECTORY/machine` says on
/// which machine it was used last, so that a copy of the directory on another machine is found to be one.
enum IdentityFile {
    /// A node's identity, and what was odd about it.
    struct Kept: Sendable {
        var identity: NodeIdentity
        /// What happened to it; nil where it was read, or made at the first start.
        var problem: Problem?
    }

    /// What tells a machine from another.
    struct Machine: Sendable, Equatable {
        /// `/etc/machine-id` and the firmware's number of the machine, as far as they can be read.
        var numbers: [String]
        /// The address that the lease announces.
        var address: IPAddress

        /// This machine.
        @available(*, noasync, message: "it blocks: use onThread")
        static func current(address: IPAddress) -> Machine {
            let files = ["/etc/machine-id", "/sys/class/dmi/id/product_uuid"]
            let numbers = files.map { file -> String in
                guard case .text(let text) = (try? IdentityFile.read(file)) ?? .missing else { return "" }
                return text.filter { $0.isHexDigit || $0 == "-" }
            }
            return Machine(numbers: numbers, address: address)
        }

        /// Whether this is certainly another machine than `other`, of which the state directory is a copy: another
        /// number and another address. A node that got another address has its numbers still, one whose system was
        /// installed anew its address.
        func isCopy(of other: Machine) -> Bool {
            let isOther = zip(numbers, other.numbers).contains { !$0.isEmpty && !$1.isEmpty && $0 != $1 }
            return isOther && address != other.address
        }
    }

    // An identity is nine bytes, what is said of the machine below two hundred.
    private static let sizeLimit = 4096

    /// What stands in a file's place.
    enum Contents: Equatable {
        case missing
        case text(String)
        /// Something that is no such file; the end of a sentence that begins with its name.
        case damaged(String)
    }

    /// Reads the identity in `directory`; makes one at the first start, and where the file holds none.
    ///
    /// - Throws: where the file cannot be read, which is no reason to take this node for another one.
    @available(*, noasync, message: "it blocks: use onThread")
    static func identity(in directory: String) throws(ExitFailure) -> Kept {
        let path = directory + "/identity"
        let damage: String
        switch try contents(of: path) {
        case .missing:
            let identity = NodeIdentity.random()
            try keep(identity, in: directory)
            return Kept(identity: identity)
        case .text(let text):
            let first = text.split(separator: "\n", omittingEmptySubsequences: false).first ?? ""
            if let identity = NodeIdentity(first), identity.number != 0 { return Kept(identity: identity) }
            damage = text.isEmpty ? "it is empty" : "it holds no identity"
        case .damaged(let reason):
            damage = reason
        }
        let identity = NodeIdentity.random()
        try keep(identity, in: directory)
        return Kept(
            identity: identity,
            problem: Problem(
                .degraded, "this node's identity was lost: \(path) was damaged, \(damage)",
                remedy: "the node has another one now and finds its lease by subnet.env and its address;"
                    + " look at the disk that holds --state-dir"))
    }

    /// The identity to use on this machine: another one where the directory is a copy of another machine's.
    @available(*, noasync, message: "it blocks: use onThread")
    static func confirmed(
        _ kept: Kept, in directory: String, machine: Machine
    ) throws(ExitFailure) -> Kept {
        var kept = kept
        // What cannot be read says nothing.
        let found = try contents(of: directory + "/machine")
        if case .text(let text) = found, let last = Machine(text, of: kept.identity),
            machine.isCopy(of: last)
        {
            let before = kept.identity
            kept.identity = .random()
            kept.problem = Problem(
                .degraded,
                "the state directory \(directory) is a copy of that of \(last.address): identity \(before) is another machine's",
                remedy:
                    "this node took another identity, \(kept.identity); do not copy --state-dir from node to node"
            )
            try keep(kept.identity, in: directory)
        }
        let text = machine.text(for: kept.identity)
        // To write takes as long as the disk does, and packets wait.
        if found == .text(text) { return kept }
        try replace(directory + "/machine", with: text)
        return kept
    }

    /// Keeps an identity for the next start.
    @available(*, noasync, message: "it blocks: use onThread")
    static func keep(_ identity: NodeIdentity, in directory: String) throws(ExitFailure) {
        try replace(directory + "/identity", with: "\(identity)\n")
    }

    // MARK: Files

    private static func contents(of path: String) throws(ExitFailure) -> Contents {
        do throws(SystemError) {
            return try read(path)
        } catch {
            throw ExitFailure(
                error.code == EACCES || error.code == EPERM ? .permission : .configuration,
                "the node's identity in \(path) can't be read: \(error); without it the node would take another subnet."
                    + " Make the file readable; removed, the node gets a new identity; --state-dir names another directory"
            )
        }
    }

    /// A system call that failed.
    private struct SystemError: Error, CustomStringConvertible {
        var code: Int32
        var description: String { String(cString: strerror(code)) }
    }

    /// Reads a small file; does not wait, whatever stands there.
    private static func read(_ path: String) throws(SystemError) -> Contents {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
        guard descriptor >= 0 else {
            let code = errno
            switch code {
            case ENOENT: return .missing
            case ENXIO, ELOOP: return .damaged("it is no file")
            default: throw SystemError(code: code)
            }
        }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw SystemError(code: errno) }
        guard status.st_mode & S_IFMT == S_IFREG else { return .damaged("it is no file") }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: sizeLimit + 1)
        while bytes.count <= sizeLimit {
            let count = Glibc.read(descriptor, &chunk, chunk.count)
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw SystemError(code: errno) }
            if count == 0 { return .text(String(decoding: bytes, as: UTF8.self)) }
            bytes += chunk.prefix(count)
        }
        return .damaged("it is larger than \(sizeLimit) bytes")
    }

    private static func replace(_ path: String, with text: String) throws(ExitFailure) {
        do {
            try write(path, text)
        } catch {
            throw ExitFailure(
                .configuration,
                "the node's identity can't be kept in \(path): \(error); make the directory writable, or name another "
                    + "with --state-dir")
        }
    }

    /// Puts a file in the place of whatever stands there, on the disk when this returns.
    private static func write(_ path: String, _ text: String) throws {
        let directory = String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        // A name that nobody can know before.
        let temporary = "\(directory)/.\(UInt64.random(in: 0...UInt64.max))"
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw SystemError(code: errno) }
        defer { unlink(temporary) }
        do {
            defer { close(descriptor) }
            let bytes = Array(text.utf8)
            let count = Glibc.write(descriptor, bytes, bytes.count)
            guard count == bytes.count else { throw SystemError(code: count < 0 ? errno : ENOSPC) }
            guard fsync(descriptor) == 0 else { throw SystemError(code: errno) }
        }
        var status = stat()
        if lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFDIR {
            // A name cannot be taken from a directory.
            guard rename(path, "\(path).damaged-\(UInt32.random(in: 0...UInt32.max))") == 0 else {
                throw SystemError(code: errno)
            }
        }
        guard rename(temporary, path) == 0 else { throw SystemError(code: errno) }
        let opened = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard opened >= 0 else { return }
        fsync(opened)
        close(opened)
    }
}

extension IdentityFile.Machine {
    /// Reads what `text(for:)` writes; nil where that is of another identity, or damaged.
    init?(_ text: String, of identity: NodeIdentity) {
        var values: [Substring: Substring] = [:]
        for line in text.split(separator: "\n") {
            let parts = line.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            if parts.count == 2 { values[parts[0]] = parts[1] }
        }
        guard values["version"] == "1", values["identity"] == "\(identity)",
            let address = values["address"].flatMap({ IPAddress($0) })
        else { return nil }
        self.init(numbers: ["machine", "product"].map { String(values[$0] ?? "") }, address: address)
    }

    /// Lines of `name=value`.
    func text(for identity: NodeIdentity) -> String {
        var lines = ["version=1", "identity=\(identity)", "address=\(address)"]
        for (name, number) in zip(["machine", "product"], numbers) { lines.append("\(name)=\(number)") }
        return lines.joined(separator: "\n") + "\n"
    }
}
