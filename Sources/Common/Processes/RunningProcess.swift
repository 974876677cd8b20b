// How it works. Which process has a socket, a device or a file open is found by looking at what the descriptors of
// all processes refer to, as /proc/N/fd shows them. Processes of other users are seen by root alone, those in other
// PID namespaces by nobody in this one; and what was seen may be over when it is told. Nothing here waits for
// anybody, but with thousands of processes it takes some milliseconds: it is for where something was found to be
// wrong.

import Addresses
import Glibc

/// A process of this machine as /proc shows it.
public struct RunningProcess: Sendable, Hashable {
    /// Its number.
    public let number: Int32

    /// Names a process, whether it is there or not.
    public init(number: Int32) { self.number = number }

    /// The processes that are seen from here, this one among them.
    @available(*, noasync, message: "it blocks: use onThread")
    public static var all: [RunningProcess] {
        ProcFile.names(in: "/proc").compactMap { name in
            Int32(name).map { RunningProcess(number: $0) }
        }
    }

    /// This process.
    public static var current: RunningProcess { RunningProcess(number: getpid()) }

    private var directory: String { "/proc/\(number)" }

    /// What it calls itself, at most 15 bytes: `flanneld`; nil where it is not there. Without what could steer a
    /// terminal or end a line, which stands as `?`.
    public var name: String? {
        guard let line = ProcFile.text("\(directory)/comm")?.dropLast(), !line.isEmpty else { return nil }
        let scalars = line.unicodeScalars.map { $0.isShownAsItIs ? $0 : "?" }
        return String(String.UnicodeScalarView(scalars))
    }

    /// The words of its command line. They are as it was given them: not to be shown as they stand.
    public var commandLine: [String] {
        (ProcFile.text("\(directory)/cmdline") ?? "").split(separator: "\0").map(String.init)
    }

    /// Whether it is in the network namespace of the calling thread.
    public var isInNetworkOfThisThread: Bool {
        guard let own = FileIdentity(path: "/proc/thread-self/ns/net") else { return false }
        return FileIdentity(path: "\(directory)/ns/net") == own
    }

    /// What it has open, as far as this process may see that.
    var descriptors: [OpenDescriptor] {
        ProcFile.names(in: "\(directory)/fd").map { OpenDescriptor(directory: directory, name: $0) }
    }
}

extension RunningProcess: CustomStringConvertible {
    /// `flanneld (process 812)`.
    public var description: String { name.map { "\($0) (process \(number))" } ?? "process \(number)" }
}

extension Unicode.Scalar {
    fileprivate var isShownAsItIs: Bool {
        switch properties.generalCategory {
        case .control, .format, .lineSeparator, .paragraphSeparator: false
        default: true
        }
    }
}

/// A descriptor of a process.
struct OpenDescriptor {
    let directory: String
    let name: String

    private var path: String { "\(directory)/fd/\(name)" }

    /// What it refers to: `socket:[4711]`, `/dev/net/tun`; nil where it is closed by now.
    var target: String? { ProcFile.target(ofLink: path) }

    /// The number of the socket that it is; nil for anything else.
    var socketInode: UInt64? {
        guard let target, target.hasPrefix("socket:["), target.hasSuffix("]") else { return nil }
        return UInt64(target.dropFirst("socket:[".count).dropLast())
    }

    /// The file that it is.
    var file: FileIdentity? { FileIdentity(path: path) }

    /// The name of the TUN or TAP device that it is, in its own network namespace; nil for anything else. The driver
    /// writes it into fdinfo (`tun_chr_show_fdinfo`, drivers/net/tun.c).
    var tunnelName: String? {
        guard target == "/dev/net/tun", let text = ProcFile.text("\(directory)/fdinfo/\(name)") else {
            return nil
        }
        for line in text.split(whereSeparator: \.isNewline) where line.hasPrefix("iff:") {
            return String(line.dropFirst("iff:".count).drop { $0 == "\t" || $0 == " " })
        }
        return nil
    }
}
