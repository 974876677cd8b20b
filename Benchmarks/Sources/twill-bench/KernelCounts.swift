import Foundation

/// What the kernels of all nodes and of the underlay between them have counted.
struct KernelCounts {
    /// Segments of TCP that came before one that they follow (TCPOFOQueue).
    private(set) var outOfOrder = 0.0
    /// Datagrams for which the socket had no room that they were for, an overlay's (UdpRcvbufErrors); one that the kernel had
    /// merged counts once.
    private(set) var socketDrops = 0.0
    /// Frames for which the next interface's queue had no room, as that of a network card that is not emptied in time.
    private(set) var underlayDrops = 0.0

    static func now() throws -> KernelCounts {
        var counts = KernelCounts()
        for node in 1...Lab.layout.nodes {
            counts.outOfOrder += value(
                "TCPOFOQueue", of: "TcpExt:", in: try Lab.run(atEndOf: node, ["cat", "/proc/net/netstat"]))
            counts.socketDrops += value(
                "RcvbufErrors", of: "Udp:", in: try Lab.run(on: node, ["cat", "/proc/net/snmp"]))
            counts.underlayDrops += sentInVain(
                try Lab.run(on: node, ["cat", "/proc/net/dev"])
            ) { $0 == "eth0" }
        }
        if let ports = try Lab.portsOfUnderlay() {
            counts.underlayDrops += sentInVain(ports) { $0.hasPrefix("port") }
        }
        return counts
    }

    func since(_ before: KernelCounts) -> KernelCounts {
        var difference = self
        difference.outOfOrder -= before.outOfOrder
        difference.socketDrops -= before.socketDrops
        difference.underlayDrops -= before.underlayDrops
        return difference
    }

    /// A number of `/proc/net/netstat` or `/proc/net/snmp`, which have pairs of lines, names and then values; not a number
    /// where it is not there.
    static func value(_ name: String, of group: String, in text: String) -> Double {
        let lines = text.split(separator: "\n").map { $0.split(separator: " ") }.filter {
            $0.first == group[...]
        }
        guard lines.count == 2, lines[0].count == lines[1].count,
            let place = lines[0].firstIndex(of: name[...])
        else { return .nan }
        return Double(lines[1][place]) ?? .nan
    }

    /// What interfaces dropped of what they were to send, by `/proc/net/dev`: two lines of names, then a line for each, whose
    /// twelfth number that is.
    static func sentInVain(_ text: String, _ isCounted: (Substring) -> Bool) -> Double {
        text.split(separator: "\n").dropFirst(2).reduce(0) { sum, line in
            let parts = line.split(separator: ":", maxSplits: 1)
            guard parts.count == 2, isCounted(parts[0].drop { $0 == " " }) else { return sum }
            let numbers = parts[1].split(separator: " ")
            return sum + (numbers.count > 11 ? Double(numbers[11]) ?? .nan : .nan)
        }
    }
}
