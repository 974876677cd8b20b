// How it works. The kernel lists every socket of the network namespace with its address, its user and the number of its
// inode; those in a file of ours are known by fstat. Which process has an inode is looked for only where
// somebody was found.

import Addresses
import Glibc
import Processes

/// Somebody else's socket on a port of ours.
public struct PortIntruder: Sendable, Hashable {
    /// The number of the socket's inode.
    public let inode: UInt64
    /// The user that made it.
    public let user: UInt32
    /// The name of a process that has it, and its number; nil where none is seen (it runs in another PID namespace).
    public let process: String?

    /// `socat (process 1234)`, or the user where the process is not known.
    public var description: String { process ?? "a process that is not seen from here, of user \(user)" }
}

extension UnderlaySocket {
    /// The sockets of others that are bound to an address and port.
    ///
    /// The kernel gives a datagram to one socket alone, so such a one gets datagrams that are ours. A socket that is
    /// bound to the port of all addresses gets none: the more exact address wins (`udp4_lib_lookup2`,
    /// net/ipv4/udp.c, and its like of IPv6). Nor does one that is connected to a loopback address: such is what a service
    /// manager has of receivers that this process gave up (`retire`), until it is told to forget them.
    ///
    /// Reads files of /proc: not for a thread that must not wait.
    ///
    /// - Parameters:
    ///   - endpoint: the address and port.
    ///   - own: descriptors of this process that are bound to it.
    /// - Returns: nobody, also where /proc does not tell.
    public static func intruders(on endpoint: Endpoint, beside own: [Int32]) -> [PortIntruder] {
        let ours = Set(own.compactMap { FileIdentity(descriptor: $0)?.inode })
        var others: [SocketTableRow] = []
        let table: SocketTable = endpoint.address.addressFamily == .ipv4 ? .udp : .udp6
        table.forEachRow { row in
            if row.endpoint == endpoint, !row.isConnectedToLoopback, !ours.contains(row.inode) {
                others.append(row)
            }
        }
        if others.isEmpty { return [] }
        let holders = RunningProcess.holders(ofSockets: Set(others.map(\.inode)))
        return others.map {
            PortIntruder(inode: $0.inode, user: $0.user, process: holders[$0.inode]?.description)
        }
    }

    /// Throws where there are such.
    public static func refuseIntruders(on endpoint: Endpoint, beside own: [Int32]) throws(UnderlaySocketError)
    {
        guard let intruder = intruders(on: endpoint, beside: own).first else { return }
        throw UnderlaySocketError(
            action: "have UDP \(endpoint) to itself, as \(intruder.description) has it too",
            errorNumber: EADDRINUSE)
    }
}
