import Glibc
import Health
import Host
import Netlink
internal import Reconciler

/// The file that has this node's private key, as wg(8) writes one: where flanneld keeps it, so that a node is the same to the
/// others whichever of the two runs.
struct WireGuardKeyFile: Sendable {
    /// Where it is.
    let path: String

    /// Nobody but root reads it, and nobody writes it (flanneld's mode).
    private static let mode: mode_t = 0o400

    /// The key that the file has; where there is no file, one that is made and written.
    ///
    /// - Throws: `ItemProblem` where it cannot be read or written, or has no key.
    @available(*, noasync, message: "it blocks: use onThread")
    func secret() throws -> WireGuardKey {
        if let key = try read() { return key }
        let key = try WireGuardKeyFile.make()
        do {
            try TextFile.replace(path, with: key.base64 + "\n", mode: WireGuardKeyFile.mode)
        } catch {
            throw problem("the private key of this node cannot be written: \(error)")
        }
        return key
    }

    /// The key that the file has; nil where there is no file.
    ///
    /// - Throws: `ItemProblem` where it cannot be read, or has no key.
    @available(*, noasync, message: "it blocks: use onThread")
    func read() throws -> WireGuardKey? {
        let text: String?
        do { text = try TextFile.read(path) } catch {
            throw problem("the private key of this node cannot be read: \(error)")
        }
        guard let text else { return nil }
        guard let key = WireGuardKey(base64: String(text.filter { !$0.isWhitespace })) else {
            throw problem("\(path) has no private key of WireGuard's")
        }
        return key
    }

    private func problem(_ cause: String) -> ItemProblem {
        ItemProblem(
            Problem(
                .cutOff, cause,
                remedy:
                    "see that it is a file that root can read with a key of wg genkey, or take it away: a new one "
                    + "is made then (WIREGUARD_KEY_FILE names another)"))
    }

    /// A new key: random bytes of the kernel's, of which some bits are as Curve25519 has them (RFC 7748, 5).
    private static func make() throws -> WireGuardKey {
        var bytes = [UInt8](repeating: 0, count: WireGuardKey.count)
        guard getentropy(&bytes, bytes.count) == 0 else {
            throw SystemError("the kernel gives no random bytes for a key", code: errno)
        }
        bytes[0] &= 248  // checked: there are 32
        bytes[31] = bytes[31] & 127 | 64  // checked: there are 32
        guard let key = WireGuardKey(bytes) else { throw SystemError("make a key", code: EINVAL) }
        return key
    }
}
