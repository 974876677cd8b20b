import Glibc

/// Why the kernel took no program, map or link.
public struct KernelProgramError: Error, CustomStringConvertible, Equatable {
    /// What was tried.
    public let action: String
    /// The kernel's error number.
    public let errorNumber: Int32
    /// The last line of what it said of a program that it refused; empty where it said nothing.
    public let words: String

    /// Makes one.
    public init(_ action: String, errorNumber: Int32, words: String = "") {
        self.action = action
        self.errorNumber = errorNumber
        self.words = words
    }

    /// What happened, and what to do about it.
    public var description: String {
        let advice: String =
            switch errorNumber {
            case EPERM where words.isEmpty, EACCES where words.isEmpty:
                "; run as root, or with CAP_BPF and CAP_NET_ADMIN"
            case ENOSYS: "; this kernel has no bpf(2)"
            default: words.isEmpty ? "" : " (\(words))"
            }
        return "cannot \(action): \(String(cString: strerror(errorNumber)))\(advice)"
    }
}
