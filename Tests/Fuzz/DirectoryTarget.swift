#if DEBUG || FUZZING
    import FoundationEssentials
    import Glibc
    import Leases

    @testable import LeaseDirectory

    /// Entries of a lease directory: a name up to the first zero byte, a time of eight bytes, and what the file holds. Names that
    /// say so are no files: links, directories, pipes.
    final class DirectoryTarget: FuzzTarget {
        let maximumBytes = 18_000
        let words: [[UInt8]] = [
            "~", "-24", "10.66.28.0-24", ".", "..", "\u{1B}[2J", "{\"PublicIP\":\"10.0.0.1\"}",
        ].map { Array($0.utf8) }
        private let directory = "/tmp/twill-fuzz-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
        private let store: DirectoryStore

        init() {
            for path in ["", "/subnets", "/holders"] { mkdir(directory + path, 0o700) }
            store = DirectoryStore(path: directory)
        }

        deinit { try? FileManager.default.removeItem(atPath: directory) }

        var seeds: [[UInt8]] {
            let text = Array(#"{"PublicIP":"198.18.9.2","PublicIPv6":null}"#.utf8)
            let day: [UInt8] = [0, 0, 0, 0x70, 0, 0, 0, 0]
            return ["10.66.28.0-24", "10.12.13.0-24&fd00:12:13::-56", "link", "directory", "pipe"].map {
                Array($0.utf8) + [0] + day + text
            } + [Array("10.66.29.0-24".utf8) + [0] + day + [UInt8](repeating: 0x20, count: 17_000)]
        }

        func run(_ bytes: [UInt8]) throws(FuzzFailure) {
            let name = String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self).split(separator: "/")
                .joined()
            guard !name.isEmpty, name != ".", name != "..", name.utf8.count < 200 else { return }
            let rest = bytes.drop { $0 != 0 }.dropFirst()
            let seconds = rest.prefix(8).reduce(0) { $0 << 8 | Int($1) }
            let path = "\(directory)/subnets/\(name)"
            make(path, contents: Array(rest.dropFirst(8)), seconds: seconds)
            defer { if rmdir(path) != 0 { unlink(path) } }
            let found: DirectoryStore.Contents
            do {
                found = try store.scan(knowing: DirectoryStore.Contents())
            } catch {
                // An entry that cannot be read leaves the others readable, whoever made it.
                throw FuzzFailure("the directory cannot be read for \(name): \(error)")
            }
            for (key, file) in found.files {
                try hold(file.entry.key == key, "\(key) has the entry \(file.entry.key)")
                try hold(
                    file.entry.value.utf8.count <= 3 * 17_000,
                    "\(file.entry.value.utf8.count) bytes were read")
            }
        }

        private func make(_ path: String, contents: [UInt8], seconds: Int) {
            switch path.hasSuffix("k") ? 0 : path.hasSuffix("y") ? 1 : path.hasSuffix("e") ? 2 : 3 {
            case 0: symlink("/etc/passwd", path)
            case 1: mkdir(path, 0o700)
            case 2: mkfifo(path, 0o600)
            default:
                let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
                guard descriptor >= 0 else { return }
                defer { close(descriptor) }
                _ = write(descriptor, contents, contents.count)
                let stamp = timespec(tv_sec: seconds, tv_nsec: 999_999_999)
                futimens(descriptor, [stamp, stamp])
            }
        }
    }
#endif
