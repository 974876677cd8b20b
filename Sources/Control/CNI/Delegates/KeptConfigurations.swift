import Glibc
import Host

/// What each container's delegate got at its ADD, so that DEL gives it the same: a file of the container's name in
/// `dataDir`, mode 0600, as flannel's plugin keeps them. A container on two networks of one directory has one file.
struct KeptConfigurations {
    /// The largest configuration that is read, in bytes: as much as is taken on the standard input.
    private static let sizeLimit = 4 << 20

    let directory: String

    private func path(_ container: String) -> String { "\(directory)/\(container)" }

    /// Keeps what the delegate gets; on the disk when this returns.
    func keep(_ json: String, for container: String) throws(CNIError) {
        do {
            try TextFile.replace(path(container), with: json, mode: 0o600)
        } catch {
            throw CNIError(.inputOutput, "cannot keep what the delegate gets: \(error)")
        }
    }

    /// What there is for a container.
    enum Content {
        case none
        /// It cannot be read, or is no configuration.
        case broken
        case whole(DelegateConfiguration)
    }

    /// Reads a container's file.
    func configuration(for container: String) -> Content {
        do {
            guard let text = try TextFile.read(path(container), limit: Self.sizeLimit) else { return .none }
            return DelegateConfiguration(kept: text).map { .whole($0) } ?? .broken
        } catch {
            return .broken
        }
    }

    /// Takes the file away, whatever it holds.
    func forget(_ container: String) { unlink(path(container)) }

    /// The containers that have a file which was there before `moment`.
    func containers(before moment: timespec) -> [String] {
        FileNames.all(in: directory).filter {
            Attachment.isContainer($0) && FileNames.isPlain(path($0), before: moment)
        }
    }
}

/// The files of a directory.
enum FileNames {
    /// All names but `.` and `..`, sorted; none where there is no such directory.
    static func all(in directory: String) -> [String] {
        guard let stream = opendir(directory) else { return [] }
        defer { closedir(stream) }
        var names: [String] = []
        while let entry = readdir(stream) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    /// Whether there is a plain file, no link, that was last written before `moment`.
    static func isPlain(_ path: String, before moment: timespec) -> Bool {
        var status = stat()
        guard lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { return false }
        return (status.st_mtim.tv_sec, status.st_mtim.tv_nsec) < (moment.tv_sec, moment.tv_nsec)
    }
}
