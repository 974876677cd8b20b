/// Builds one netlink message: header, fixed part, attributes (netlink(7), linux/netlink.h). Every number is in
/// host byte order unless an attribute says otherwise.
struct MessageWriter {
    /// What an attribute holds at most in bytes: its length, a 16-bit number, counts the header too, and padding
    /// follows.
    private static let attributeLimit = 65_535 - 2 * MessageLayout.attributeHeaderSize

    private(set) var bytes: [UInt8] = []

    /// Starts a message. The port number stays 0: the kernel fills it in.
    init(type: MessageType, flags: MessageFlags) {
        append(UInt32(0))  // the length
        append(type.rawValue)
        append(flags.rawValue)
        append(UInt32(0))  // the sequence number
        append(UInt32(0))
    }

    /// Appends a number as it stands.
    mutating func append(_ value: some FixedWidthInteger) {
        withUnsafeBytes(of: value) { bytes.append(contentsOf: $0) }
    }

    /// Appends an attribute with raw contents. Longer ones than an attribute holds (an interface's name from the
    /// command line) are cut, and then refused by the kernel.
    mutating func attribute(_ type: Int, _ contents: some Collection<UInt8>) {
        let contents = contents.prefix(MessageWriter.attributeLimit)
        append(UInt16(clamping: MessageLayout.attributeHeaderSize &+ contents.count))
        append(UInt16(clamping: type))
        bytes.append(contentsOf: contents)
        pad()
    }

    /// Appends an attribute that is a 32-bit number.
    mutating func attribute(_ type: Int, _ value: UInt32) {
        withUnsafeBytes(of: value) { attribute(type, Array($0)) }
    }

    /// Appends an attribute that is text, with its closing zero.
    mutating func attribute(_ type: Int, _ text: String) { attribute(type, Array(text.utf8) + [0]) }

    /// Appends an attribute that holds what `body` appends. Without `NLA_F_NESTED`, as rtnetlink's old attributes
    /// have it.
    mutating func nested(_ type: Int, _ body: (inout MessageWriter) -> Void) {
        let start = bytes.count
        append(UInt16(0))
        append(UInt16(clamping: type))
        body(&self)
        patch(UInt16(clamping: bytes.count &- start), at: start)
    }

    /// The finished message, as request number `sequence`.
    consuming func finish(sequence: UInt32) -> [UInt8] {
        patch(UInt32(clamping: bytes.count), at: 0)
        patch(sequence, at: 8)
        return bytes
    }

    private mutating func patch(_ value: some FixedWidthInteger, at offset: Int) {
        // checked: what is patched was appended before, header or length
        withUnsafeBytes(of: value) { bytes.replaceSubrange(offset..<offset &+ $0.count, with: $0) }
    }

    private mutating func pad() {
        while bytes.count % MessageLayout.alignment != 0 { bytes.append(0) }
    }
}
