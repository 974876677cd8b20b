import Glibc
import Leases

/// A path of the store's, with the calls that it needs. Each throws with the path and the kernel's word.
struct FilePath: Sendable, Hashable, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }

    func appending(_ name: String) -> FilePath { FilePath("\(description)/\(name)") }

    /// What identifies one state of a file.
    struct Status: Sendable, Hashable {
        var device: UInt64
        var inode: UInt64
        /// What sort of file it is, `S_IFREG` for example.
        var type: UInt32
        /// Hard links.
        var links: Int
        /// In bytes.
        var size: Int
        var modified: WallTime
        /// When the file system last changed anything of the file, by the file system's own clock.
        var changed: WallTime

        init(_ status: stat) {
            device = UInt64(status.st_dev)
            inode = UInt64(status.st_ino)
            type = status.st_mode & S_IFMT
            links = Int(clamping: status.st_nlink)
            size = Int(status.st_size)
            modified = WallTime(status.st_mtim)
            changed = WallTime(status.st_ctim)
        }

        /// `a FIFO`; nil for a regular file.
        var oddity: String? {
            switch type {
            case S_IFREG: nil
            case S_IFDIR: "a directory"
            case S_IFLNK: "a symbolic link"
            case S_IFIFO: "a FIFO"
            case S_IFSOCK: "a socket"
            default: "a device"
            }
        }
    }

    /// Why a file's text is not to be had, though the file is there.
    struct Unreadable: Error {
        /// The end of a sentence that begins with the file's name.
        var reason: String
    }

    // A network configuration is below 1 KiB, a lease's value below 200 bytes.
    static let sizeLimit = 16 << 10

    /// The file's status; nil where there is none.
    @available(*, noasync, message: "it blocks: use the store's queue")
    func status() throws(LeaseStoreError) -> Status? {
        var status = stat()
        guard lstat(description, &status) == 0 else {
            let code = errno
            if code == ENOENT { return nil }
            throw failure("cannot look at", code)
        }
        return Status(status)
    }

    /// The status and text of a regular file; nil where there is none. Whatever stands there, this does not wait.
    @available(*, noasync, message: "it blocks: use the store's queue")
    func read() throws(Unreadable) -> (status: Status, text: String)? {
        let descriptor = open(description, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)
        guard descriptor >= 0 else {
            switch errno {
            case ENOENT: return nil
            case ELOOP: throw Unreadable(reason: "it is a symbolic link, not a file")
            case ENXIO: throw Unreadable(reason: "it is a socket or a device, not a file")
            case let code: throw Unreadable(reason: "it cannot be opened: \(String(cString: strerror(code)))")
            }
        }
        defer { close(descriptor) }
        var found = stat()
        guard fstat(descriptor, &found) == 0 else {
            throw Unreadable(reason: "it cannot be read: \(String(cString: strerror(errno)))")
        }
        let status = Status(found)
        if let oddity = status.oddity { throw Unreadable(reason: "it is \(oddity), not a file") }
        var bytes = [UInt8](repeating: 0, count: Self.sizeLimit &+ 1)
        var length = 0
        while length < bytes.count {
            let count = bytes.withUnsafeMutableBytes { buffer in
                let rest = buffer.dropFirst(length)
                return Glibc.read(
                    descriptor, UnsafeMutableRawBufferPointer(rebasing: rest).baseAddress, rest.count)
            }
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else {
                throw Unreadable(reason: "it cannot be read: \(String(cString: strerror(errno)))")
            }
            if count == 0 { break }
            length &+= count
        }
        guard length <= Self.sizeLimit else {
            throw Unreadable(reason: "it is larger than \(Self.sizeLimit >> 10) KiB")
        }
        return (status, String(decoding: bytes.prefix(length), as: UTF8.self))
    }

    /// Makes a file that was not there, on the disk when this returns, with its modification time set.
    @available(*, noasync, message: "it blocks: use the store's queue")
    func write(_ text: String, modified: WallTime?) throws(LeaseStoreError) -> Status {
        let descriptor = open(description, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw failure("cannot make", errno) }
        defer { close(descriptor) }
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw failure("cannot write", count < 0 ? errno : ENOSPC) }
            rest = rest.dropFirst(count)
        }
        if let modified { try setModified(modified, of: descriptor) }
        guard fsync(descriptor) == 0 else { throw failure("cannot write", errno) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw failure("cannot look at", errno) }
        return Status(status)
    }

    /// Makes an empty file that was not there, on the disk or not.
    @available(*, noasync, message: "it blocks: use the store's queue")
    func makeEmpty() throws(LeaseStoreError) -> Status {
        let descriptor = open(description, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw failure("cannot make", errno) }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw failure("cannot look at", errno) }
        return Status(status)
    }

    /// Sets the modification time of the file that `status` describes; nil where it is another by now.
    @available(*, noasync, message: "it blocks: use the store's queue")
    func touch(_ expected: Status, modified: WallTime) throws(LeaseStoreError) -> Status? {
        let descriptor = open(description, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)
        guard descriptor >= 0 else {
            let code = errno
            if code == ENOENT { return nil }
            throw failure("cannot open", code)
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
    @available(*, noasync, message: "it blocks: use the store's queue")
    func link(to other: FilePath) throws(LeaseStoreError) -> Bool {
        if Glibc.link(description, other.description) == 0 { return true }
        let code = errno
        if code == EEXIST { return false }
        throw other.failure("cannot make", code)
    }

    /// Gives the file another name, replacing what has that one; false where there is no such file.
    @available(*, noasync, message: "it blocks: use the store's queue")
    @discardableResult
    func rename(to other: FilePath) throws(LeaseStoreError) -> Bool {
        if Glibc.rename(description, other.description) == 0 { return true }
        let code = errno
        if code == ENOENT { return false }
        throw other.failure("cannot replace", code)
    }

    /// Takes the name away, if it is there.
    @available(*, noasync, message: "it blocks: use the store's queue")
    func remove() { unlink(description) }

    @available(*, noasync, message: "it blocks: use the store's queue")
    func makeDirectory() throws(LeaseStoreError) {
        guard mkdir(description, 0o755) == 0 || errno == EEXIST else {
            throw failure("cannot make the directory", errno)
        }
    }

    /// Brings a directory's names to the disk. Where the file system has no such thing, it needs none.
    @available(*, noasync, message: "it blocks: use the store's queue")
    func synchronize() {
        let descriptor = open(description, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        fsync(descriptor)
        close(descriptor)
    }

    /// The names in a directory; those that begin with a dot left out, unless `hidden`. Empty where there is none.
    @available(*, noasync, message: "it blocks: use the store's queue")
    func names(hidden: Bool = false) throws(LeaseStoreError) -> [String] {
        guard let directory = opendir(description) else {
            let code = errno
            if code == ENOENT { return [] }
            throw failure("cannot list", code)
        }
        defer { closedir(directory) }
        var names: [String] = []
        while true {
            errno = 0
            guard let entry = readdir(directory) else {
                let code = errno
                guard code == 0 else { throw failure("cannot list", code) }
                return names
            }
            let name = withUnsafeBytes(of: &entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name == "." || name == ".." { continue }
            if hidden || !name.hasPrefix(".") { names.append(name) }
        }
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

/// A time of a wall clock, be it this machine's or a file system's. Any number that a file system tells is one: what
/// lies beyond 17,000 years from 1970 counts as that, so that no arithmetic on it overflows.
struct WallTime: Sendable, Hashable, Comparable {
    private static let limit = 1 << 39

    let seconds: Int
    let nanoseconds: Int

    init(seconds: Int, nanoseconds: Int) {
        self.seconds = min(max(seconds, 0 &- Self.limit), Self.limit)
        self.nanoseconds = min(max(nanoseconds, 0), 999_999_999)
    }

    init(_ time: timespec) { self.init(seconds: time.tv_sec, nanoseconds: time.tv_nsec) }

    /// This machine's.
    static var now: WallTime {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return WallTime(time)
    }

    /// `duration` is a lease's time, some days at most.
    static func + (time: WallTime, duration: Duration) -> WallTime {
        let (seconds, attoseconds) = duration.components
        let whole = min(max(Int(seconds), 0 &- limit), limit)
        let nanoseconds = time.nanoseconds &+ Int(attoseconds / 1_000_000_000)
        let carried = nanoseconds >= 1_000_000_000 ? 1 : nanoseconds < 0 ? -1 : 0
        return WallTime(
            seconds: time.seconds &+ whole &+ carried, nanoseconds: nanoseconds &- carried &* 1_000_000_000)
    }

    static func - (left: WallTime, right: WallTime) -> Duration {
        .seconds(left.seconds &- right.seconds) + .nanoseconds(left.nanoseconds &- right.nanoseconds)
    }

    static func < (left: WallTime, right: WallTime) -> Bool {
        (left.seconds, left.nanoseconds) < (right.seconds, right.nanoseconds)
    }
}

extension WallTime: CustomStringConvertible {
    /// `2026-11-28 20:31:07 UTC`.
    var description: String {
        var seconds = self.seconds
        var parts = tm()
        guard gmtime_r(&seconds, &parts) != nil else { return "\(self.seconds) s" }
        func padded(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
        let date = "\(Int(parts.tm_year) &+ 1900)-\(padded(parts.tm_mon &+ 1))-\(padded(parts.tm_mday))"
        return "\(date) \(padded(parts.tm_hour)):\(padded(parts.tm_min)):\(padded(parts.tm_sec)) UTC"
    }
}
