import Glibc

/// Small text files: `subnet.env` and those of `/proc/sys`.
package enum TextFile {
    /// The largest file that is read, in bytes, where nothing else is said: `subnet.env` has a few lines, a setting
    /// has one.
    package static let sizeLimit = 64 * 1024

    /// The file's text; nil where there is no such file. What is no plain file (a FIFO, a device), or larger than
    /// `limit` bytes, is an error, and is not waited for.
    ///
    /// - Throws: `SystemError` with the path and the kernel's error number.
    @available(*, noasync, message: "it blocks: use onThread")
    package static func read(_ path: String, limit: Int = sizeLimit) throws(SystemError) -> String? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
        guard descriptor >= 0 else {
            let code = errno
            if code == ENOENT { return nil }
            throw SystemError(path, code: code)
        }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw SystemError(path, code: errno) }
        guard status.st_mode & S_IFMT == S_IFREG else {
            throw SystemError(path, code: EINVAL, reason: "it is no plain file")
        }
        var contents: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = Glibc.read(descriptor, &chunk, chunk.count)
            let code = errno
            if count < 0 && code == EINTR { continue }
            guard count >= 0 else { throw SystemError(path, code: code) }
            if count == 0 { return String(decoding: contents, as: UTF8.self) }
            contents += chunk.prefix(count)
            guard contents.count <= limit else {
                throw SystemError(path, code: EFBIG, reason: "it is larger than \(limit >> 10) KiB")
            }
        }
    }

    /// Puts a new file in the place of `path` by renaming, and makes its directory where it is missing. An empty
    /// directory in its place goes. After the return the file is on the disk.
    ///
    /// The temporary file lies in the same directory, since a rename does not cross file systems; its name cannot be
    /// guessed, and it is made anew, so that nobody's link is followed.
    ///
    /// - Throws: `SystemError` with the path and the kernel's error number.
    @available(*, noasync, message: "it blocks: use onThread")
    package static func replace(_ path: String, with text: String, mode: mode_t) throws(SystemError) {
        let (directoryPath, name) = split(path)
        let directory: Int32
        do throws(SystemError) {
            directory = try TrustedDirectory.open(directoryPath)
        } catch {
            throw SystemError(path, code: error.code, reason: error.reason)
        }
        defer { close(directory) }
        let temporary = ".\(name).\(String(UInt64.random(in: 0...UInt64.max), radix: 36))"
        let descriptor = openat(
            directory, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode)
        guard descriptor >= 0 else { throw SystemError(path, code: errno) }
        do throws(SystemError) {
            defer { close(descriptor) }
            // The process's umask does not count.
            guard fchmod(descriptor, mode) == 0 else { throw SystemError(path, code: errno) }
            try write(text, to: descriptor, path: path)
            guard fsync(descriptor) == 0 else { throw SystemError(path, code: errno) }
            try rename(temporary, to: name, in: directory, path: path)
        } catch {
            unlinkat(directory, temporary, 0)
            throw error
        }
        // Some file systems cannot: the file is there all the same.
        fsync(directory)
    }

    private static func rename(
        _ temporary: String, to name: String, in directory: Int32, path: String
    ) throws(SystemError) {
        guard renameat(directory, temporary, directory, name) != 0 else { return }
        let code = errno
        guard code == EISDIR else { throw SystemError(path, code: code) }
        guard unlinkat(directory, name, AT_REMOVEDIR) == 0,
            renameat(directory, temporary, directory, name) == 0
        else {
            throw SystemError(path, code: code, reason: "a directory that is not empty is in its place")
        }
    }

    /// The directory and the name in it; for the file system's root, and without a name, what the kernel then
    /// refuses.
    static func split(_ path: String) -> (directory: String, name: String) {
        guard let slash = path.lastIndex(of: "/") else { return (".", path) }
        let name = String(path[path.index(after: slash)...])
        return (slash == path.startIndex ? "/" : String(path[..<slash]), name)
    }

    private static func write(_ text: String, to descriptor: Int32, path: String) throws(SystemError) {
        let bytes = Array(text.utf8)
        let count = Glibc.write(descriptor, bytes, bytes.count)
        let code = errno
        guard count == bytes.count else { throw SystemError(path, code: count < 0 ? code : ENOSPC) }
    }
}

/// A directory reached in such a way that no other user could lead elsewhere: nothing on the way to it is a symbolic
/// link that others may have made, or a directory of theirs.
enum TrustedDirectory {
    /// How many symbolic links may lie on the way, as for the kernel (MAXSYMLINKS in linux/namei.h).
    private static let linkLimit = 40

    /// Opens the directory for files to be made in, and makes it where it is missing (mode 0755).
    ///
    /// - Returns: a descriptor, the caller's to close.
    @available(*, noasync, message: "it blocks: use onThread")
    static func open(_ path: String) throws(SystemError) -> Int32 {
        var walk = Walk(path: path)
        do throws(SystemError) {
            while let name = walk.pending.popLast() { try walk.step(into: name) }
            return walk.current
        } catch {
            if walk.current >= 0 { close(walk.current) }
            throw error
        }
    }

    private struct Walk {
        let path: String
        var current: Int32
        /// The names still to be gone through, the next one last.
        var pending: [String]
        private var links = 0

        @available(*, noasync, message: "it blocks: use onThread")
        init(path: String) {
            self.path = path
            current = Glibc.open(path.hasPrefix("/") ? "/" : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
            pending = path.split(separator: "/").reversed().map(String.init)
        }

        /// Whether others than root and this process's user may put things into the directory, or take them away.
        private func isOpenToOthers(_ status: stat) -> Bool {
            status.st_mode & 0o002 != 0 || (status.st_mode & 0o020 != 0 && status.st_gid != 0)
                || !isOwn(status.st_uid)
        }

        private func isOwn(_ user: uid_t) -> Bool { user == 0 || user == geteuid() }

        private func failure(_ code: Int32) -> SystemError { SystemError(path, code: code) }

        @available(*, noasync, message: "it blocks: use onThread")
        mutating func step(into name: String) throws(SystemError) {
            guard current >= 0 else { throw failure(errno) }
            var here = stat()
            var there = stat()
            guard fstat(current, &here) == 0 else { throw failure(errno) }
            if fstatat(current, name, &there, AT_SYMLINK_NOFOLLOW) != 0 {
                guard errno == ENOENT else { throw failure(errno) }
                guard mkdirat(current, name, 0o755) == 0 || errno == EEXIST else { throw failure(errno) }
                guard fstatat(current, name, &there, AT_SYMLINK_NOFOLLOW) == 0 else { throw failure(errno) }
            }
            guard isOwn(there.st_uid) || !isOpenToOthers(here) else {
                throw SystemError(
                    path, code: EPERM,
                    reason: "\(name) on the way to it belongs to another user (\(there.st_uid))")
            }
            if there.st_mode & S_IFMT == S_IFLNK {
                try follow(name)
                return
            }
            let next = openat(current, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
            guard next >= 0 else { throw failure(errno) }
            close(current)
            current = next
        }

        private mutating func follow(_ name: String) throws(SystemError) {
            links += 1
            guard links <= TrustedDirectory.linkLimit else { throw failure(ELOOP) }
            var target = [CChar](repeating: 0, count: Int(PATH_MAX))
            let count = readlinkat(current, name, &target, target.count)
            guard count > 0 else { throw failure(errno) }
            let text = String(decoding: target.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
            if text.hasPrefix("/") {
                close(current)
                current = Glibc.open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
            }
            pending += text.split(separator: "/").reversed().map(String.init)
        }
    }
}
