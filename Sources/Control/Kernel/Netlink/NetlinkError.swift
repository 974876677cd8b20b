import Glibc

/// The kernel refused a request, or a netlink socket failed.
public struct NetlinkError: Error, Sendable, Hashable {
    /// What was asked, as a message to an operator has it: `add address 10.66.28.0/32 to interface 7`.
    public var operation: String
    /// The kernel's error number, positive; `EBADMSG` where the reply itself was bad.
    public var code: Int32
    /// The kernel's own words (`NLMSGERR_ATTR_MSG`), or what was wrong with its reply.
    public var message: String?

    /// Makes an error.
    public init(operation: String, code: Int32, message: String? = nil) {
        self.operation = operation
        self.code = code
        self.message = message
    }
}

extension NetlinkError: CustomStringConvertible {
    /// `cannot add address 10.66.28.0/32 to interface 7: Operation not permitted; run as root or with CAP_NET_ADMIN`.
    public var description: String {
        var text = "cannot \(operation): \(String(cString: strerror(code)))"
        if let message { text += " (\(message))" }
        if code == EPERM { text += "; run as root or with CAP_NET_ADMIN" }
        return text
    }
}
