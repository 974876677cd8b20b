import Addresses
import Health

/// Another process has the tunnel's port.
struct PortTaken: Error, Equatable {
    let endpoint: Endpoint
    /// The process by name; nil where none is found.
    let holder: String?

    /// What of the node's health it is.
    var component: Component { Component(.port, "UDP \(endpoint.port)") }

    /// What happened.
    var cause: String {
        "UDP \(endpoint) is held by \(holder ?? "a process that can't be found, in another container maybe")"
    }

    /// The same for an operator.
    func problem(retrySeconds: Int) -> Problem {
        Problem(
            .cutOff, cause,
            remedy:
                "stop it (flanneld? a second twilld?), or set Backend.Port of the whole network; the "
                + "port is tried again "
                + "every \(retrySeconds) s")
    }
}
