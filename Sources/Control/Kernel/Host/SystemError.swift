import Glibc

/// A call to the system failed: on what, and why.
package struct SystemError: Error, Hashable, CustomStringConvertible {
    /// What it was about, as the beginning of a sentence: a file's path, `cannot start a thread`.
    package let subject: String
    /// The kernel's error number.
    package let code: Int32
    /// What is wrong, where the error number does not say it.
    package let reason: String?

    /// Makes an error. Whoever makes it of `errno` takes that before anything else is called.
    package init(_ subject: String, code: Int32, reason: String? = nil) {
        self.subject = subject
        self.code = code
        self.reason = reason
    }

    /// Why: the reason, or the error number in words.
    package var cause: String { reason ?? String(cString: strerror(code)) }

    /// The message to the operator: `/run/flannel/subnet.env: No space left on device`.
    package var description: String { "\(subject): \(cause)" }
}
