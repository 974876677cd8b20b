import Glibc

/// Standard error, a whole line at a time: lines of several threads do not mix, and none waits in a buffer.
enum StandardError {
    /// Writes the line and its end. A standard error that takes nothing is nobody's to tell.
    static func write(_ line: String) {
        var text = line + "\n"
        text.withUTF8 { bytes in
            var rest = UnsafeRawBufferPointer(bytes)
            while !rest.isEmpty {
                let count = Glibc.write(STDERR_FILENO, rest.baseAddress, rest.count)
                if count < 0 && errno == EINTR { continue }
                guard count > 0 else { return }
                rest = UnsafeRawBufferPointer(rebasing: rest[count...])
            }
        }
    }
}
