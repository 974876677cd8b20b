import Foundation

/// The way of a packet's bytes from one pod to another over two nodes: where a candidate takes them into user space and
/// back, and how many were counted at each of these places for each byte that a pod sent.
struct PacketWay {
    private let candidate: Candidate
    private let crossings: Double
    private let userSpaceCopies: Double?
    private let own: Double?
    /// At the four places: read from the device, sent; received, written to the device.
    private let places: [Double]
    private let syscalls: Double
    private let ringOperations: Double
    private let smallSyscalls: Double

    /// nil where nothing was counted.
    init?(summary: Summary, metrics: [Metric], _ candidate: Candidate, _ underlay: Underlay) {
        func counted(_ quantity: String) -> Double? {
            metrics.first { $0.name == "copies.\(quantity)" }.flatMap {
                summary.figure($0, candidate, underlay)?.median
            }
        }
        guard let crossings = counted("kernel") else { return nil }
        self.candidate = candidate
        self.crossings = crossings
        userSpaceCopies = counted("user")
        own = counted("own")
        places = ["read", "send", "receive", "write"].map { counted($0) ?? 0 }
        syscalls = counted("syscalls") ?? .nan
        ringOperations = counted("ring") ?? .nan
        smallSyscalls = counted("small-syscalls") ?? .nan
    }

    private var staysInKernel: Bool { crossings == 0 }

    /// What was counted, in words.
    var text: String {
        guard !staysInKernel else {
            return "Forwarded by the kernel: no copy between its two ends but those of the pods' own sockets."
        }
        let copies =
            switch userSpaceCopies {
            case nil: "copies within user space cannot be counted in this program"
            case let copies?: String(format: "%.2f copies within user space", copies)
            }
        let claim = own.map { String(format: "; by its own counters %.2f copies", $0) } ?? ""
        return String(format: "A node: %.2f crossings, \(copies)\(claim). ", crossings)
            + String(
                format: "%.0f syscalls and %.0f ring operations a MB; %.2f syscalls a packet of 64 B.",
                syscalls, ringOperations, smallSyscalls / 1000)
    }

    /// An inline SVG.
    var picture: String {
        let path = staysInKernel ? "M24 80H436" : "M24 80H90V34H170V80H290V34H370V80H436"
        var marks = ""
        if !staysInKernel {
            let names = ["read", "send", "receive", "write"]
            for ((x, name), count) in zip(zip([90, 170, 290, 370], names), places) {
                marks += """
                    <circle class="copy" cx="\(x)" cy="57" r="6"/>\
                    <text class="tick" x="\(x)" y="12">\(name)</text>\
                    <text class="tick" x="\(x)" y="24">\(String(format: "%.2f", count))</text>
                    """
            }
            // Copies within user space are not told apart by direction: they are shown over both.
            for x in [130, 330] {
                let isClean = (userSpaceCopies ?? 0) < 0.005
                let text = userSpaceCopies.map { String(format: "+%.2f", $0) } ?? "?"
                marks += "<text class=\"tick\(isClean ? "" : " bad")\" x=\"\(x)\" y=\"48\">\(text)</text>"
            }
        }
        for (x, name) in [(46, "pod"), (230, "underlay"), (414, "pod")] {
            marks += "<text class=\"tick\" x=\"\(x)\" y=\"98\">\(name)</text>"
        }
        if !staysInKernel {
            for (x, name) in [(60, "TUN"), (198, "UDP"), (262, "UDP"), (400, "TUN")] {
                marks += "<text class=\"tick\" x=\"\(x)\" y=\"74\">\(name)</text>"
            }
        } else if candidate.name == "vxlan" {
            for x in [130, 330] { marks += "<text class=\"tick\" x=\"\(x)\" y=\"74\">VXLAN</text>" }
        }
        return """
            <svg viewBox="0 0 460 104" role="img"><path class="border" d="M0 57H460"/>\
            <text class="zone" x="2" y="52">user space</text><text class="zone" x="2" y="70">kernel</text>\
            <path class="way" d="\(path)"/>\(marks)</svg>
            """
    }
}
