/// A container's interface on the network.
package struct Attachment: Sendable, Hashable {
    package var container: String
    package var interface: String

    package init(container: String, interface: String) {
        self.container = container
        self.interface = interface
    }

    /// Whether a text may be a container's name: it becomes the name of a file, here and in the plugins that are
    /// called.
    package static func isContainer(_ text: some StringProtocol) -> Bool { isName(text) }

    /// What containers and networks may be called: letters, digits, and after the first of them `_`, `.` and `-`.
    static func isName(_ text: some StringProtocol) -> Bool {
        func isLetterOrDigit(_ byte: UInt8) -> Bool {
            (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
        }
        guard let first = text.utf8.first, isLetterOrDigit(first) else { return false }
        return text.utf8.allSatisfy { isLetterOrDigit($0) || [0x5F, 0x2E, 0x2D].contains($0) }
    }

    /// Whether a text may be an interface's name: as the kernel has it, and no colon.
    package static func isInterface(_ text: some StringProtocol) -> Bool {
        (1...15).contains(text.utf8.count) && text != "." && text != ".."
            && !text.unicodeScalars.contains { $0 == "/" || $0 == ":" || $0.properties.isWhitespace }
    }
}
