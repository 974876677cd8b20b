import Glibc
import Host

/// The plugin on a node: copied out of its image, in which there is no shell, under both its names.
package enum Installation {
    /// twill's own name, and flannel's, by which configurations that are there already call it.
    static let names = ["twill-cni", "flannel"]

    /// Puts this program into a directory, each name by a rename: a runtime may be starting it at this moment.
    ///
    /// - Throws: where a name could not be put there; those before it are.
    package static func install(into directory: String) throws(SystemError) {
        let program = open("/proc/self/exe", O_RDONLY | O_CLOEXEC)
        guard program >= 0 else { throw SystemError("/proc/self/exe", code: errno) }
        defer { close(program) }
        for name in names {
            try put(program, at: "\(directory)/\(name)", by: "\(directory)/.\(name).\(getpid())")
        }
    }

    private static func put(
        _ program: Int32, at path: String, by temporary: String
    ) throws(SystemError) {
        unlink(temporary)
        let copy = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o755)
        guard copy >= 0 else { throw SystemError(path, code: errno) }
        do throws(SystemError) {
            defer { close(copy) }
            try write(program, to: copy, path: path)
            // The process's umask does not count.
            guard fchmod(copy, 0o755) == 0, fsync(copy) == 0 else { throw SystemError(path, code: errno) }
        } catch {
            unlink(temporary)
            throw error
        }
        guard rename(temporary, path) == 0 else {
            let code = errno
            unlink(temporary)
            throw SystemError(path, code: code)
        }
    }

    private static func write(_ program: Int32, to copy: Int32, path: String) throws(SystemError) {
        lseek(program, 0, SEEK_SET)
        var chunk = [UInt8](repeating: 0, count: 1 << 20)
        while true {
            let count = read(program, &chunk, chunk.count)
            guard count >= 0 else { throw SystemError("/proc/self/exe", code: errno) }
            if count == 0 { return }
            let written = Glibc.write(copy, chunk, count)
            let code = errno
            guard written == count else { throw SystemError(path, code: written < 0 ? code : ENOSPC) }
        }
    }
}
