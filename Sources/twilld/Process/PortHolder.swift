import Addresses
import FoundationEssentials
import Glibc
import Health

/// Finds the process that holds a port or a device, for the sentence that names it. Reads `/proc`; blocks for
/// milliseconds.
enum PortHolder {
    /// Which sockets are looked at.
    enum Transport: String {
        case tcp
        case udp
    }

    /// `flanneld (process 812)`; nil where none is found: it is in another namespace, or just ended.
    static func name(_ transport: Transport, _ endpoint: Endpoint) -> String? {
        var inodes: Set<String> = []
        for file in ["/proc/self/net/\(transport.rawValue)", "/proc/self/net/\(transport.rawValue)6"] {
            guard let text = try? String(contentsOfFile: file, encoding: .utf8) else { continue }
            inodes.formUnion(PortHolder.inodes(in: text, isTCP: transport == .tcp, endpoint))
        }
        return inodes.isEmpty ? nil : process(holding: inodes)
    }

    /// The inodes of the sockets in a table such as /proc/net/udp (proc(5)) that keep `endpoint` from being bound. Of
    /// an IPv6 table those count that are bound to no address, since they take IPv4 too.
    static func inodes(in table: String, isTCP: Bool, _ endpoint: Endpoint) -> [String] {
        guard let address = endpoint.address.v4 else { return [] }
        let isAny = address.bits == 0
        // An address is the number that the kernel has in memory, in network order.
        let wanted = hexadecimal(address.bits.bigEndian, width: 8)
        let port = hexadecimal(UInt32(endpoint.port), width: 4)
        return table.split(separator: "\n").compactMap { line in
            let fields = line.split(separator: " ")
            guard fields.count > 9 else { return nil }
            let local = fields[1].split(separator: ":")
            guard local.count == 2, local[1] == port, !isTCP || fields[3] == "0A" else { return nil }
            let isEverywhere = local[0].allSatisfy { $0 == "0" }
            return isAny || isEverywhere || local[0] == wanted ? String(fields[9]) : nil
        }
    }

    private static func hexadecimal(_ number: UInt32, width: Int) -> String {
        let digits = String(number, radix: 16, uppercase: true)
        return String(repeating: "0", count: max(0, width - digits.count)) + digits
    }

    /// The process that has a TUN device of that name open: the driver names it in fdinfo (tun_chr_show_fdinfo in the
    /// kernel's drivers/net/tun.c). Names are each network namespace's own: a process of another one is not meant.
    static func name(ofDevice name: String) -> String? {
        let namespace = PortHolder.namespace(of: "self")
        return process { path, target in
            guard target == "/dev/net/tun", let process = path.split(separator: "/").dropFirst().first,
                PortHolder.namespace(of: String(process)) == namespace
            else { return false }
            let information = try? String(
                contentsOfFile: path.replacing("/fd/", with: "/fdinfo/", maxReplacements: 1), encoding: .utf8)
            return information?.split(separator: "\n").contains { line in
                let fields = line.split(whereSeparator: \.isWhitespace)
                return fields.count == 2 && fields[0] == "iff:" && fields[1] == name
            } ?? false
        }
    }

    private static func namespace(of process: String) -> String? {
        try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(process)/ns/net")
    }

    private static func process(holding inodes: Set<String>) -> String? {
        let links = Set(inodes.map { "socket:[\($0)]" })
        return process { _, target in links.contains(target) }
    }

    /// The first process with a descriptor, given as its path and what that points to, that is as `isMeant`
    /// says.
    private static func process(_ isMeant: (String, String) -> Bool) -> String? {
        let processes = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        for process in processes where process.allSatisfy(\.isNumber) {
            let directory = "/proc/\(process)/fd"
            let descriptors = (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []
            let holds = descriptors.contains { descriptor in
                let path = "\(directory)/\(descriptor)"
                return (try? FileManager.default.destinationOfSymbolicLink(atPath: path)).map {
                    isMeant(path, $0)
                }
                    ?? false
            }
            if holds { return named(process) }
        }
        return nil
    }

    /// `flanneld (process 812)`.
    static func named(_ process: String) -> String {
        let name = try? String(contentsOfFile: "/proc/\(process)/comm", encoding: .utf8)
        let text = (name ?? "").prefix { !$0.isNewline }
        return text.isEmpty ? "process \(process)" : "\(String(text).printable) (process \(process))"
    }
}
