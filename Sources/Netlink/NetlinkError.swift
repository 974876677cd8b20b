/// The kernel refused a request, or a netlink socket failed.
public struct NetlinkError: Error, Sendable, Hashable {
    /// What was asked, as a message to an operator has it: `add address 10.66.28.0/32 to interface 7`.
    public var operation: String
    /// The kernel's error number, positive; 0 where the reply itself was bad.
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
