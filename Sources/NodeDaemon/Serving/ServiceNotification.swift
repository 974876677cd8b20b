import CLinux
import Glibc
import Health

/// Tells systemd how the service does (sd_notify(3)): datagrams of `NAME=value` lines to the socket that
/// `NOTIFY_SOCKET` names. Without that variable nothing is told.
struct ServiceNotification: Sendable {
    private let socketPath: String?
    /// How often systemd wants to hear `WATCHDOG=1`, with half of the time as a margin; nil where it does
    /// not.
    let watchdogInterval: Duration?

    init(environment: [String: String], processIdentifier: Int32 = getpid()) {
        // sun_path holds 108 bytes; a name of systemd's own that does not fit is none.
        socketPath = environment["NOTIFY_SOCKET"].flatMap {
            (2...107).contains($0.utf8.count) && ($0.hasPrefix("/") || $0.hasPrefix("@")) ? $0 : nil
        }
        let isMeant = environment["WATCHDOG_PID"].map { $0 == String(processIdentifier) } ?? true
        watchdogInterval = environment["WATCHDOG_USEC"].flatMap(UInt64.init).flatMap {
            isMeant && $0 > 1 ? .microseconds(Int64(clamping: $0 / 2)) : nil
        }
    }

    /// The service works from here on.
    func ready(status: String) { send("READY=1\nSTATUS=\(ServiceNotification.line(status))") }

    /// One line for `systemctl status`.
    func status(_ text: String) { send("STATUS=\(ServiceNotification.line(text))") }

    /// The service ends because it was told to.
    func stopping() { send("STOPPING=1") }

    /// The service is alive.
    func watchdog() { send("WATCHDOG=1") }

    /// The service reads its configuration again; `ready` says that it has.
    func reloading() { send("RELOADING=1\nMONOTONIC_USEC=\(monotonicNanoseconds() / 1000)") }

    /// It has.
    func reloaded() { send("READY=1") }

    /// Whether anybody hears what is told.
    var isHeard: Bool { socketPath != nil }

    /// Gives systemd a copy of a descriptor, for the service's next process; not to be watched for its end, which systemd
    /// would take it away at.
    func store(_ descriptor: Int32, as name: String) {
        send("FDSTORE=1\nFDNAME=\(name)\nFDPOLL=0", [descriptor])
    }

    /// Lets systemd close what it has by that name.
    func remove(_ name: String) { send("FDSTOREREMOVE=1\nFDNAME=\(name)") }

    /// What systemd takes for the value of one variable. A text from outside (the network's configuration, a store's
    /// error) may have line ends, behind which it would be another variable.
    private static func line(_ text: String) -> String { String(text.printable.prefix(lineLimit)) }

    /// Characters of a status: `systemctl status` shows one line.
    private static let lineLimit = 1000

    private func send(_ text: String, _ descriptors: [Int32] = []) {
        guard let socketPath else { return }
        let descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        var name = Array(socketPath.utf8)
        // An abstract socket's name begins with a zero byte, written as @.
        if name[0] == UInt8(ascii: "@") { name[0] = 0 }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: name) }
        let length = socklen_t(clamping: (MemoryLayout<sockaddr_un>.offset(of: \.sun_path) ?? 2) + name.count)
        let message = Array(text.utf8)
        withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                if descriptors.isEmpty {
                    _ = sendto(
                        descriptor, message, message.count, Int32(MSG_DONTWAIT | MSG_NOSIGNAL), $0, length)
                } else {
                    _ = twill_send_descriptors(
                        descriptor, $0, length, message, message.count, descriptors,
                        UInt32(clamping: descriptors.count))
                }
            }
        }
    }
}
