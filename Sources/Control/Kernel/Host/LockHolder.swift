import Glibc
import Processes

/// Who holds a lock of flock(2), for the sentence that names it: only looks, and never waits.
package enum LockHolder {
    /// Who holds the lock on a file: `ufw (process 812)`; nil where the kernel does not tell.
    @available(*, noasync, message: "it blocks: use onThread")
    package static func name(ofLock path: String) -> String? {
        guard let file = FileIdentity(path: path), let locks = try? TextFile.read("/proc/locks") else {
            return nil
        }
        // "1: FLOCK  ADVISORY  WRITE 812 00:1a:5 0 EOF": who took it, and major:minor:inode of the file.
        for line in locks.split(whereSeparator: \.isNewline) {
            let words = line.split(separator: " ")
            guard words.count >= 6, words[1] == "FLOCK", words[5].hasSuffix(":\(file.inode)"),
                let taker = Int32(words[4]).map({ RunningProcess(number: $0) })
            else { continue }
            // flock(1) takes a lock for the shell that called it, and ends.
            let holder = taker.name == nil ? RunningProcess.holder(ofFile: file, among: others) : taker
            return holder?.description
        }
        return nil
    }

    /// The processes that may hold a lock of iptables: not those that only wait for it, nor this one.
    private static var others: [RunningProcess] {
        RunningProcess.all.filter { $0 != .current && $0.name?.contains("tables") == false }
    }
}
