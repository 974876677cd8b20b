import Glibc

/// Files and directories of /proc. What they hold others wrote, or chose: a process calls itself what it likes.
enum ProcFile {
    /// The largest text that is read in bytes. A command line may be longer; what twill looks for stands at its
    /// start.
    private static let textLimit = 64 * 1024

    /// What is read of a table at once, in bytes.
    private static let chunkBytes = 64 * 1024

    /// How long a line of a table may be in bytes; those of the kernel's socket tables have some 150.
    private static let lineLimit = 4096

    /// The file's text, its first 64 KiB; nil where it cannot be read: the process has ended, or is another user's.
    static func text(_ path: String) -> String? {
        var contents: [UInt8] = []
        guard
            read(
                path,
                {
                    contents += $0; return contents.count < textLimit
                })
        else { return nil }
        return String(decoding: contents.prefix(textLimit), as: UTF8.self)
    }

    /// Calls `body` with each line of a file that may be large; with none where it cannot be read.
    static func forEachLine(of path: String, _ body: (String) -> Void) {
        var rest: [UInt8] = []
        _ = read(path) { chunk in
            rest += chunk
            var lines = rest.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
            let unfinished = lines.popLast() ?? []
            for line in lines { body(String(decoding: line, as: UTF8.self)) }
            // A longer line is none of the kernel's: it is passed over in pieces.
            rest = unfinished.count > lineLimit ? [] : Array(unfinished)
            return true
        }
        if !rest.isEmpty { body(String(decoding: rest, as: UTF8.self)) }
    }

    /// Hands a file's bytes to `body` in order, for as long as that wants more.
    ///
    /// - Returns: whether the file could be read.
    private static func read(_ path: String, _ body: (ArraySlice<UInt8>) -> Bool) -> Bool {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        var chunk = [UInt8](repeating: 0, count: chunkBytes)
        while true {
            let count = Glibc.read(descriptor, &chunk, chunk.count)
            if count < 0, errno == EINTR { continue }
            // A process that ends while its file is read gives ESRCH.
            guard count >= 0 else { return false }
            if count == 0 || !body(chunk.prefix(count)) { return true }
        }
    }

    /// The names in a directory but for `.` and `..`; none where it cannot be read.
    static func names(in path: String) -> [String] {
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

    /// What a symbolic link holds, up to 255 bytes of it; nil where it cannot be read.
    static func target(ofLink path: String) -> String? {
        var bytes = [CChar](repeating: 0, count: 256)
        let count = readlink(path, &bytes, bytes.count)
        guard count > 0, count < bytes.count else { return nil }
        return String(decoding: bytes.prefix(count).lazy.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

/// What tells a file, a device or a namespace from any other on this machine while it is there.
public struct FileIdentity: Sendable, Hashable {
    /// The number of the file system.
    public let device: UInt64
    /// The number in it.
    public let inode: UInt64

    /// Looks at what `path` leads to; nil where it leads to nothing, or may not be looked at.
    public init?(path: String) {
        var status = stat()
        guard stat(path, &status) == 0 else { return nil }
        self.init(status)
    }

    /// Looks at an open file; nil where the descriptor is none.
    public init?(descriptor: Int32) {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { return nil }
        self.init(status)
    }

    private init(_ status: stat) {
        device = UInt64(status.st_dev)
        inode = UInt64(status.st_ino)
    }
}
