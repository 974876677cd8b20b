import Addresses
import Devices
import Glibc

/// What the data plane needs to know at its start.
public struct DataPlaneConfiguration: Sendable, Equatable {
    /// The TUN device's name, at most 15 bytes.
    public var tunnelName: String
    /// The underlay address and UDP port to bind.
    public var underlay: Endpoint
    /// The TUN device's MTU at first, bytes; the control side sets it on the device, and may publish others.
    public var mtu: Int
    /// The TUN device's own address: the first of this node's subnet; nil where the network has no IPv4.
    public var tunnelAddress: IPv4Address?
    /// The same for IPv6; nil where the network has none.
    public var tunnelAddressIPv6: IPv6Address?
    /// Whether inner sources outside the peer's subnet are let in.
    public var acceptsAnySource: Bool
    /// How it is tuned.
    public var tuning: Tuning

    /// Makes a configuration.
    public init(
        tunnelName: String, underlay: Endpoint, mtu: Int, tunnelAddress: IPv4Address?,
        tunnelAddressIPv6: IPv6Address? = nil, acceptsAnySource: Bool = false, tuning: Tuning = Tuning()
    ) {
        self.tunnelName = tunnelName
        self.underlay = underlay
        self.mtu = mtu
        self.tunnelAddress = tunnelAddress
        self.tunnelAddressIPv6 = tunnelAddressIPv6
        self.acceptsAnySource = acceptsAnySource
        self.tuning = tuning
    }
}

/// Why the data plane could not be started.
public enum DataPlaneError: Error, CustomStringConvertible {
    /// The TUN device.
    case tunnel(TunnelError)
    /// A socket.
    case socket(UnderlaySocketError)
    /// The engine: what happened, and the kernel's error number.
    case engine(String, errorNumber: Int32)
    /// How it is tuned.
    case tuning(TuningError)
    /// The kernel refuses to steer flows, without which the number of workers can't change while packets flow.
    case unsteerable(errorNumber: Int32)
    /// Memory, a thread, an eventfd: what was tried, and the kernel's error number.
    case resource(String, errorNumber: Int32)

    /// What happened, to what, and what to do about it.
    public var description: String {
        switch self {
        case .tunnel(let error): error.description
        case .socket(let error): error.description
        case .engine(let text, _): text
        case .tuning(let error): error.description
        case .unsteerable(let errorNumber):
            "cannot steer flows to more workers: \(String(cString: strerror(errorNumber))); grant CAP_BPF"
        case .resource(let action, let errorNumber):
            "cannot \(action): \(String(cString: strerror(errorNumber)))"
        }
    }
}
