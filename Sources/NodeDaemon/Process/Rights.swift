import Glibc
import Health
import Netlink

/// What the kernel must let this process do; found out before anything is written or opened, so that a run without
/// rights leaves nothing behind.
enum Rights {
    /// What is lacking and what to do about it; nil where nothing is. Blocks for microseconds.
    @available(*, noasync, message: "it blocks: use onThread")
    static func problem() -> (cause: String, remedy: String)? {
        mayConfigureNetwork() ?? tunnelDevice()
    }

    /// Ends a start that is in vain.
    @available(*, noasync, message: "it blocks: use onThread")
    static func check() throws(ExitFailure) {
        if let (cause, remedy) = problem() { throw ExitFailure(.permission, "\(cause); \(remedy)") }
    }

    /// Whether the network namespace's configuration may be changed, which only the kernel knows: the capability
    /// counts in the user namespace that the network namespace belongs to. A change to an interface that cannot be is
    /// refused for the right's sake first (rtnetlink_rcv_msg in net/core/rtnetlink.c), else because there is none.
    private static func mayConfigureNetwork() -> (cause: String, remedy: String)? {
        do throws(NetlinkError) {
            try RouteSocket().setLink(index: .max, LinkChange())
            return nil
        } catch {
            guard error.code == EPERM || error.code == EACCES else { return nil }
            return (
                "this process may not configure the network (CAP_NET_ADMIN)",
                "run as root, or grant CAP_NET_ADMIN"
            )
        }
    }

    /// What a container lacks then.
    private static let container =
        "a container needs the device (--device /dev/net/tun), a pod a mount of it (hostPath /dev/net/tun, type CharDevice)"

    private static func tunnelDevice() -> (cause: String, remedy: String)? {
        let descriptor = open("/dev/net/tun", O_RDWR | O_CLOEXEC)
        guard descriptor < 0 else {
            close(descriptor)
            return nil
        }
        let code = errno
        return switch code {
        case EPERM, EACCES:
            (
                "/dev/net/tun can't be opened: \(systemWords(code))",
                "run as root; \(container). runc 1.2.0 to 1.2.3 forbid the device to a pod all the same: update runc, "
                    + "or give the pod privileged: true"
            )
        case ENOENT, ENODEV, ENXIO:
            (
                "there is no /dev/net/tun",
                "load the tun module (modprobe tun); \(container)"
            )
        default: nil
        }
    }
}
