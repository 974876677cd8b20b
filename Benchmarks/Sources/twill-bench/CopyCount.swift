import Foundation

/// What `libcopycount.so` adds up in one daemon: the bytes that `memcpy` and `memmove` copied there, in calls long enough
/// for payload.
struct CopyCount {
    let path: String

    private static let library = sibling("libcopycount.so")

    /// The command with the library loaded before everything else.
    func wrap(_ command: [String]) -> [String] {
        ["env", "LD_PRELOAD=\(Self.library)", "COPY_COUNT_FILE=\(path)"] + command
    }

    /// Bytes copied so far; nil where the process did not load the library (a program without a dynamic linker, as
    /// those in Go are).
    func bytes(in process: pid_t) -> Double? {
        guard contents("/proc/\(process)/maps").contains(Self.library),
            let data = FileManager.default.contents(atPath: path), data.count >= 8
        else { return nil }
        return data.withUnsafeBytes { Double($0.loadUnaligned(as: UInt64.self)) }
    }
}
