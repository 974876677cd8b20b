import Addresses
import CLinux
import Firewall
import Glibc
import Host
import Netlink
import Processes
import Reconciler
import TrafficControl

/// What outlives the daemon on a node: rules, the blackhole route, programs, the device, files.
public struct Leftovers: Sendable {
    /// The tunnel device's name.
    public var interfaceName: String
    /// `subnet.env`.
    public var subnetFile: String
    /// The status socket of a daemon that was killed.
    public var statusSocket: String

    /// Names what to look for.
    public init(interfaceName: String, subnetFile: String, statusSocket: String) {
        self.interfaceName = interfaceName
        self.subnetFile = subnetFile
        self.statusSocket = statusSocket
    }

    /// What a removal came to.
    public struct Outcome: Sendable, Hashable {
        /// What was there and is gone, a few words each.
        public var removed: [String] = []
        /// What is there still, and why; one sentence each.
        public var failures: [String] = []
        /// The subnet that `subnet.env` named.
        public var subnet: IPv4Prefix?
    }

    /// Whose these things are: a daemon that runs, which would be cut off by their removal, or put them back. A
    /// sentence that names it; nil where nobody is. Only looks.
    ///
    /// - Throws: where the kernel does not tell of the device.
    @available(*, noasync, message: "it blocks: use onThread")
    public func owner() throws -> String? {
        if try RouteSocket().link(named: interfaceName) != nil {
            if let holder = RunningProcess.holder(ofTunnel: interfaceName) {
                return "\(holder) holds the device \(interfaceName)"
            }
            if twill_tun_is_held(interfaceName) == 1 { return "a process holds the device \(interfaceName)" }
        }
        // flanneld of another backend has no such device, and the same file and rules; and one that waits for its
        // store has none yet.
        if let daemon = RunningProcess.nodeDaemon(keeping: subnetFile, or: interfaceName) {
            return "\(daemon) runs here"
        }
        return nil
    }

    /// Removes all of it; what cannot be removed keeps nothing else from it. No daemon may run (`owner`). Its calls
    /// start child processes and wait for them.
    @available(*, noasync, message: "it blocks: use onThread")
    public func remove() -> Outcome {
        var outcome = Outcome()
        func attempt(_ what: String, _ body: () throws -> [String]) {
            do { outcome.removed += try body() } catch { outcome.failures.append("\(what): \(error)") }
        }
        attempt("packet filter rules") { try PacketFilter.removeAll(interfaceName: interfaceName) }
        attempt(subnetFile) {
            outcome.subnet = try SubnetFileValues(path: subnetFile)?.subnet
            return []
        }
        // A release before twill had a number of its own made it, maybe: only the file says then which subnet it was.
        if let subnet = outcome.subnet.map({ IPPrefix.v4($0) }) {
            attempt("blackhole route") { try removeBlackholeRoute(subnet) }
        }
        attempt("routes and rules", prune)
        attempt("programs of the kernel path", removePrograms)
        attempt("device \(interfaceName)", removeDevice)
        for path in [subnetFile, statusSocket] {
            attempt(path) { try removeFile(path) }
        }
        return outcome
    }

    /// What carries twill's number, but for another twilld's.
    private func prune() throws -> [String] {
        let socket = try RouteSocket()
        let state = NetworkState(links: try socket.links(), addresses: try socket.addresses())
        let leftovers = Pruning(
            state: state, devices: [interfaceName], alias: SubnetFile.deviceAlias(ofDaemonKeeping: subnetFile)
        ).leftovers(
            among: try socket.routes(ofOrigin: Route.twillOrigin), try socket.rules(),
            besideOther: { RunningProcess.otherNodeDaemon != nil }
        ) { _ in false }
        for leftover in leftovers { try leftover.delete(using: socket) }
        return leftovers.map { $0.name(in: state) }
    }

    private func removePrograms() throws -> [String] {
        let socket = try RouteSocket()
        return try AttachedProgram.removeFilters(
            ofTunnel: interfaceName, on: try socket.links(), except: nil, using: socket)
    }

    private func removeBlackholeRoute(_ subnet: IPPrefix) throws -> [String] {
        let route = BlackholeRoute(subnet: subnet)
        let socket = try RouteSocket()
        guard route.isPresent(in: try socket.routes()) else { return [] }
        try route.delete(using: socket)
        return [route.name]
    }

    /// A device that is not persistent goes with the process that holds it.
    private func removeDevice() throws -> [String] {
        let socket = try RouteSocket()
        guard let link = try socket.link(named: interfaceName) else { return [] }
        switch twill_tun_is_held(interfaceName) {
        case 0: try socket.deleteLink(index: link.index)
        case 1: throw LeftoverError(description: "a process holds it; stop that one")
        default: throw LeftoverError(description: "it is no TUN device; twilld did not make it")
        }
        return ["device \(interfaceName)"]
    }

    private func removeFile(_ path: String) throws -> [String] {
        guard unlink(path) != 0 else { return [path] }
        let code = errno
        guard code != ENOENT && code != ENOTDIR else { return [] }
        throw SystemError(path, code: code)
    }
}

struct LeftoverError: Error, CustomStringConvertible {
    let description: String
}
