import Glibc

/// Small text files: `subnet.env` and those of `/proc/sys`.
enum TextFile {
    /// A file that could not be read or written.
    struct Failure: Error, CustomStringConvertible {
        let path: String
        let code: Int32
        var description: String { "\(path): \(String(cString: strerror(code)))" }
    }

    /// The file's text; nil where there is no such file.
    static func read(_ path: String) throws(Failure) -> String? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            if errno == ENOENT { return nil }
            throw Failure(path: path, code: errno)
        }
        defer { close(descriptor) }
        var contents: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = Glibc.read(descriptor, &chunk, chunk.count)
            guard count >= 0 else { throw Failure(path: path, code: errno) }
            if count == 0 { return String(decoding: contents, as: UTF8.self) }
            contents += chunk.prefix(count)
        }
    }

    /// Writes to a file that is there, with one call, as `/proc/sys` asks.
    static func overwrite(_ path: String, with text: String) throws(Failure) {
        let descriptor = open(path, O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw Failure(path: path, code: errno) }
        defer { close(descriptor) }
        try write(text, to: descriptor, path: path)
    }

    /// Puts a new file in the place of `path` by renaming, and makes its directory where it is missing.
    static func replace(_ path: String, with text: String, mode: mode_t) throws(Failure) {
        if let slash = path.lastIndex(of: "/"), slash != path.startIndex {
            try makeDirectory(String(path[..<slash]))
        }
        // In the same directory, since a rename does not cross file systems.
        let temporary = "\(path).\(getpid())"
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode)
        guard descriptor >= 0 else { throw Failure(path: path, code: errno) }
        do throws(Failure) {
            defer { close(descriptor) }
            // The process's umask does not count.
            guard fchmod(descriptor, mode) == 0 else { throw Failure(path: path, code: errno) }
            try write(text, to: descriptor, path: path)
            guard fsync(descriptor) == 0 else { throw Failure(path: path, code: errno) }
        } catch {
            unlink(temporary)
            throw error
        }
        guard rename(temporary, path) == 0 else {
            let code = errno
            unlink(temporary)
            throw Failure(path: path, code: code)
        }
    }

    private static func write(_ text: String, to descriptor: Int32, path: String) throws(Failure) {
        let bytes = Array(text.utf8)
        let count = Glibc.write(descriptor, bytes, bytes.count)
        guard count == bytes.count else { throw Failure(path: path, code: count < 0 ? errno : ENOSPC) }
    }

    private static func makeDirectory(_ path: String) throws(Failure) {
        if mkdir(path, 0o755) == 0 || errno == EEXIST { return }
        guard errno == ENOENT, let slash = path.lastIndex(of: "/"), slash != path.startIndex else {
            throw Failure(path: path, code: errno)
        }
        try makeDirectory(String(path[..<slash]))
        guard mkdir(path, 0o755) == 0 || errno == EEXIST else { throw Failure(path: path, code: errno) }
    }
}
