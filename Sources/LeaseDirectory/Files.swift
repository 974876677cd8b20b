import Glibc
import Leases

/// A path of the store's, with the calls that it needs. Each throws with the path and the kernel's word.
struct FilePath: Sendable, Hashable, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }

    func appending(_ name: String) -> FilePath { FilePath("\(description)/\(name)") }

    /// What identifies one state of a file.
    struct Status: Sendable, Hashable {
        var inode: UInt64
        /// Hard links.
        var links: Int
        var size: Int
        /// Seconds and nanoseconds of the wall clock.
        var modified: WallTime

        init(_ status: stat) {
            inode = UInt64(status.st_ino)
            links = Int(status.st_nlink)
            size = Int(status.st_size)
            modified = WallTime(seconds: Int(status.st_mtim.tv_sec), nanoseconds: Int(status.st_mtim.tv_nsec))
        }
    }

    /// The file's status; nil where there is none.
    func status() throws(LeaseStoreError) -> Status? {
        var status = stat()
        guard lstat(description, &status) == 0 else {
            if errno == ENOENT { return nil }
            throw failure("cannot look at", errno)
        }
        return Status(status)
    }

    /// The file's status and text; nil where there is none.
    func read() throws(LeaseStoreError) -> (status: Status, text: String)? {
        let descriptor = open(description, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
        guard descriptor >= 0 else {
            if errno == ENOENT { return nil }
            throw failure("cannot open", errno)
        }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw failure("cannot look at", errno) }
        var bytes = [UInt8](repeating: 0, count: Self.sizeLimit)
        let count = Glibc.read(descriptor, &bytes, bytes.count)
        guard count >= 0 else { throw failure("cannot read", errno) }
        return (Status(status), String(decoding: bytes[..<count], as: UTF8.self))
    }

    // A network configuration is below 1 KiB, a lease's value below 200 bytes; no more of a larger file is read.
    private static let sizeLimit = 16 << 10

    /// Makes a file that was not there, on the disk when this returns, with its modification time set.
    func write(_ text: String, modified: WallTime?) throws(LeaseStoreError) -> Status {
        let descriptor = open(description, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw failure("cannot make", errno) }
        defer { close(descriptor) }
        var bytes = Array(text.utf8)
        guard Glibc.write(descriptor, &bytes, bytes.count) == bytes.count else {
            throw failure("cannot write", errno)
        }
        if let modified { try setModified(modified, of: descriptor) }
        guard fsync(descriptor) == 0 else { throw failure("cannot write", errno) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw failure("cannot look at", errno) }
        return Status(status)
    }

    /// Sets the modification time of the file that `status` describes; nil where it is another by now.
    func touch(_ expected: Status, modified: WallTime) throws(LeaseStoreError) -> Status? {
        let descriptor = open(description, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
        guard descriptor >= 0 else {
            if errno == ENOENT { return nil }
            throw failure("cannot open", errno)
        }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw failure("cannot look at", errno) }
        guard Status(status) == expected else { return nil }
        try setModified(modified, of: descriptor)
        // The name may have passed to another file in between; that one was not touched then.
        guard let current = try self.status(), current.inode == expected.inode else { return nil }
        return current
    }

    private func setModified(_ time: WallTime, of descriptor: Int32) throws(LeaseStoreError) {
        let stamp = timespec(tv_sec: time.seconds, tv_nsec: time.nanoseconds)
        guard futimens(descriptor, [stamp, stamp]) == 0 else {
            throw failure("cannot set the time of", errno)
        }
    }

    /// Gives the file a second name; false where that one is taken.
    func link(to other: FilePath) throws(LeaseStoreError) -> Bool {
        if Glibc.link(description, other.description) == 0 { return true }
        if errno == EEXIST { return false }
        throw other.failure("cannot make", errno)
    }

    /// Gives the file another name, replacing what has that one; false where there is no such file.
    @discardableResult
    func rename(to other: FilePath) throws(LeaseStoreError) -> Bool {
        if Glibc.rename(description, other.description) == 0 { return true }
        if errno == ENOENT { return false }
        throw other.failure("cannot replace", errno)
    }

    /// Takes the name away, if it is there.
    func remove() { unlink(description) }

    func makeDirectory() throws(LeaseStoreError) {
        guard mkdir(description, 0o755) == 0 || errno == EEXIST else {
            throw failure("cannot make the directory", errno)
        }
    }

    /// The names in a directory, those that begin with a dot left out.
    func names() throws(LeaseStoreError) -> [String] {
        guard let directory = opendir(description) else { throw failure("cannot list", errno) }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            if !name.hasPrefix(".") { names.append(name) }
        }
        return names
    }

    func failure(_ action: String, _ number: Int32) -> LeaseStoreError {
        let kind: LeaseStoreError.Kind =
            switch number {
            case EACCES, EPERM, EROFS, ENOTDIR: .denied
            case ENOSPC, EDQUOT, EMFILE, ENFILE: .failed
            default: .unreachable
            }
        return LeaseStoreError(kind, "\(action) \(description): \(String(cString: strerror(number)))")
    }
}

/// A time of the wall clock, which the nodes of a shared file system have in common.
struct WallTime: Sendable, Hashable {
    var seconds: Int
    var nanoseconds: Int

    static var now: WallTime {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return WallTime(seconds: time.tv_sec, nanoseconds: time.tv_nsec)
    }

    static func + (time: WallTime, duration: Duration) -> WallTime {
        let (seconds, attoseconds) = duration.components
        let nanoseconds = time.nanoseconds + Int(attoseconds / 1_000_000_000)
        return WallTime(
            seconds: time.seconds + Int(seconds) + nanoseconds / 1_000_000_000,
            nanoseconds: nanoseconds % 1_000_000_000)
    }

    static func - (left: WallTime, right: WallTime) -> Duration {
        .seconds(left.seconds - right.seconds) + .nanoseconds(left.nanoseconds - right.nanoseconds)
    }
}
