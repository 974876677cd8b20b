// How it works. /proc/net/udp lists every IPv4 socket of the network namespace with its address, its user and the number of
// its inode; those in a file of ours are known by fstat. Which process has an inode is found by looking at what the
// descriptors in /proc refer to, which is done only where somebody was found.

import Addresses
import Glibc

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
    /// The kernel gives a datagram to one socket alone, so such a one gets datagrams that are ours. A socket that is bound to
    /// the port of all addresses gets none: the more exact address wins (`udp4_lib_lookup2`, net/ipv4/udp.c).
    ///
    /// Reads files of /proc: not for a thread that must not wait.
    ///
    /// - Parameters:
    ///   - endpoint: the address and port.
    ///   - own: descriptors of this process that are bound to it.
    /// - Returns: nobody, also where /proc does not tell.
    public static func intruders(on endpoint: Endpoint, beside own: [Int32]) -> [PortIntruder] {
        let ours = Set(own.compactMap(inode(of:)))
        let others = sockets(boundTo: endpoint).filter { !ours.contains($0.inode) }
        if others.isEmpty { return [] }
        let processes = processes(having: Set(others.map(\.inode)))
        return others.map { PortIntruder(inode: $0.inode, user: $0.user, process: processes[$0.inode]) }
    }

    /// Throws where there are such.
    public static func refuseIntruders(on endpoint: Endpoint, beside own: [Int32]) throws(UnderlaySocketError)
    {
        guard let intruder = intruders(on: endpoint, beside: own).first else { return }
        throw UnderlaySocketError(
            action: "have UDP \(endpoint) to itself, as \(intruder.description) has it too",
            errorNumber: EADDRINUSE)
    }

    private static func inode(of descriptor: Int32) -> UInt64? {
        var status = stat()
        return fstat(descriptor, &status) == 0 ? UInt64(status.st_ino) : nil
    }

    private static func sockets(boundTo endpoint: Endpoint) -> [(inode: UInt64, user: UInt32)] {
        guard let file = fopen("/proc/thread-self/net/udp", "re") else { return [] }
        defer { fclose(file) }
        var found: [(inode: UInt64, user: UInt32)] = []
        var line: UnsafeMutablePointer<CChar>?
        var capacity = 0
        defer { free(line) }
        while getline(&line, &capacity, file) > 0, let text = line {
            if let row = UDPTableRow(String(cString: text)), row.endpoint == endpoint {
                found.append((row.inode, row.user))
            }
        }
        return found
    }

    /// Which process has each of some sockets.
    private static func processes(having inodes: Set<UInt64>) -> [UInt64: String] {
        var found: [UInt64: String] = [:]
        for process in entries(of: "/proc") where process.utf8.allSatisfy({ (0x30...0x39).contains($0) }) {
            for descriptor in entries(of: "/proc/\(process)/fd") {
                guard let inode = socket(linkedFrom: "/proc/\(process)/fd/\(descriptor)"),
                    inodes.contains(inode)
                else { continue }
                found[inode] = "\(name(ofProcess: process)) (process \(process))"
            }
            if found.count == inodes.count { break }
        }
        return found
    }

    private static func entries(of path: String) -> [String] {
        guard let directory = opendir(path) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            names.append(
                withUnsafeBytes(of: &entry.pointee.d_name) {
                    String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
                })
        }
        return names
    }

    /// The number in `socket:[12345]`.
    private static func socket(linkedFrom path: String) -> UInt64? {
        var bytes = [UInt8](repeating: 0, count: 64)
        let count = bytes.withUnsafeMutableBytes {
            $0.assumingMemoryBound(to: CChar.self).baseAddress.map { start in readlink(path, start, 64) }
                ?? -1
        }
        guard count > 9 else { return nil }
        let text = String(decoding: bytes[..<count], as: UTF8.self)
        guard text.hasPrefix("socket:["), text.hasSuffix("]") else { return nil }
        return UInt64(text.dropFirst(8).dropLast())
    }

    private static func name(ofProcess number: String) -> String {
        guard let file = fopen("/proc/\(number)/comm", "re") else { return "?" }
        defer { fclose(file) }
        var bytes = [UInt8](repeating: 0, count: 32)
        let count = fread(&bytes, 1, bytes.count, file)
        return String(decoding: bytes[..<count].prefix { $0 >= 0x20 }, as: UTF8.self)
    }
}

/// A line of /proc/net/udp (`udp4_format_sock`, net/ipv4/udp.c).
struct UDPTableRow: Equatable {
    var endpoint: Endpoint
    var user: UInt32
    var inode: UInt64

    init(endpoint: Endpoint, user: UInt32, inode: UInt64) {
        self.endpoint = endpoint
        self.user = user
        self.inode = inode
    }

    /// Reads a line; nil for the heading and for what has another form.
    init?(_ line: String) {
        // sl, local address, remote address, state, queues, timer, retransmits, user, timeout, inode, …
        let fields = line.split { $0 == " " || $0 == "\n" }
        guard fields.count >= 10, let user = UInt32(fields[7]), let inode = UInt64(fields[9]) else {
            return nil
        }
        let local = fields[1].split(separator: ":")
        // The address is printed as the number that its bytes are on this machine.
        guard local.count == 2, let address = UInt32(local[0], radix: 16),
            let port = UInt16(local[1], radix: 16)
        else { return nil }
        self.init(
            endpoint: Endpoint(address: IPv4Address(networkBytes: address), port: port), user: user,
            inode: inode)
    }
}
