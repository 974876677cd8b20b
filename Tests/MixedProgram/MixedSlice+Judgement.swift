import Counters
import Kit

// What was sent, what arrived, what was counted. Where the kernel dropped something outside of twilld, less may have
// come than was sent, and never more.

extension MixedSlice {
    /// A GSO packet or a receive buffer that is dropped counts as one, and is up to this many datagrams.
    private static let largestBatch = 128
    /// Of what was sent to a node, a share of each kind at least this many in a hundred as large as of all.
    private static let leastShare = 90

    private var kernelDropCount: Int { drops.values.reduce(0, +) }
    /// Datagrams that the daemons of the first two nodes had to drop for want of room.
    private var daemonDropCount: Int {
        (0..<2).reduce(0) { $0 + counts[$1].sum(Fate.unsent.counters + Fate.unwritten.counters) }
    }

    func judge() {
        for node in 1...2 {
            judgeContent(node)
            judgeMalformed(node)
            judgeNode(node)
            judgeChecksums(node)
        }
        // Who left counts from its new start only.
        if !leaves {
            judgeNode(3)
            if kernelDropCount == 0 { judgeNetwork() }
        } else if !mixed.daemons[2].isRunning {
            mixed.fault("node 3's twilld has ended")
        }
        if streams.contains(where: { $0.outOfOrder > 0 }) {
            mixed.fault("iperf3 saw UDP datagrams out of order")
        }
        if pings.contains(where: { $0.firstMatch(of: #/DUP!|wrong data|corrupted/#) != nil }) {
            mixed.fault("ping got wrong or double answers")
        }
    }

    /// Checked datagrams that were sent and did not arrive.
    func lost(_ way: String) -> Int {
        let receiver = (way.last?.wholeNumberValue ?? 1) - 1
        return sent[way]?.sent.reduce(0) { $0 + $1.value - (received[receiver].received[$1.key] ?? 0) } ?? 0
    }

    private func isExplained(_ missing: Int) -> Bool {
        (0...Self.largestBatch * (kernelDropCount + daemonDropCount)).contains(missing)
    }

    /// What a pod received, against what the other sent.
    private func judgeContent(_ node: Int) {
        let from = 3 - node
        let receipt = received[node - 1]
        if receipt.corrupt + receipt.behind > 0 {
            mixed.fault(
                "pod \(node) received \(receipt.corrupt) corrupt and \(receipt.behind) late or double ones")
        }
        let missing = lost("\(from)-\(node)")
        if !isExplained(missing) {
            mixed.fault(
                "\(missing) datagrams from pod \(from) to pod \(node) are missing; the kernel dropped"
                    + " \(kernelDropCount) packets, twilld \(daemonDropCount)")
        }
        guard let injection = injected["\(from)-\(node)"] else { return }
        let good = (injection.expected["packets_good"] ?? 0) - (receipt.received["\(injection.flow)"] ?? 0)
        if !isExplained(good) {
            mixed.fault("\(good) good packets among node \(from)'s malformed ones did not reach pod \(node)")
        }
    }

    /// Each malformed datagram is counted under its own reason.
    private func judgeMalformed(_ node: Int) {
        let counted = counts[node - 1]
        let missed = counted.socketDrops + kernelDropCount
        // Of what was sent to the node, the same share of every kind was dropped before twilld, give or take as much
        // again. With an offload off these few processors drop a lot.
        let arrived = counted[.datagramsReceived] - counted[.hellosReceived]
        let least = min(100 * (arrived - missed) / (arrived + missed + 1), Self.leastShare)
        let injections = injected.filter { $0.key.hasSuffix("-\(node)") }.values
        for counter in Fate.malformed.counters {
            let count = counted[counter]
            var expected = injections.reduce(0) { $0 + ($1.expected[counter.name] ?? 0) }
            if counter == .dropInboundUnknownPeer {
                expected += nudges
                // Who joins may send before the others have heard of it.
                if leaves && count > expected { continue }
            }
            guard count != expected else { continue }
            if missed > 0, count < expected, count > expected * least / 100 { continue }
            mixed.fault("node \(node) counted \(counter.name)=\(count), injected were \(expected)")
        }
    }

    /// On a node, what went in came out or was counted as dropped, and the device's own counters agree.
    private func judgeNode(_ node: Int) {
        let counted = counts[node - 1]
        func expect(_ isSo: Bool, _ text: @autoclosure () -> String) {
            if !isSo { mixed.fault("node \(node): \(text())") }
        }
        // Time-exceeded errors go to peers here: no pod sends a packet whose time to live is one. What the kernel
        // path takes is never read.
        let fromPods =
            counted.sum([
                .tunnelReads, .segmentsSent, .timeExceededsSent, .kernelPathPacketsSent,
                .dropKernelPathMemory,
            ])
            - counted.sum([.superPacketsRead] + Fate.refused.counters)
        let sentOut = counted.sum([.packetsSent] + Fate.unsent.counters)
        expect(fromPods == sentOut, "\(fromPods) packets came from pods, \(sentOut) were sent or dropped")
        let fromPeers = counted[.datagramsReceived]
        let delivered = counted.sum(
            [.packetsDelivered, .hellosReceived] + Fate.malformed.counters + Fate.truncated.counters)
        expect(
            fromPeers == delivered,
            "\(fromPeers) datagrams came from peers, \(delivered) were delivered or dropped")
        expect(
            counted[.tunnelReads] == counted.devicePackets,
            "the device gave \(counted.devicePackets) packets, twilld read \(counted[.tunnelReads])")
        let written = counted.sum([.tunnelWrites, .unreachablesSent])
        expect(
            written == counted.deviceReceived
                || (written > counted.deviceReceived && counted.sum(Fate.unwritten.counters) > 0),
            "twilld wrote \(written) packets, the device took \(counted.deviceReceived)")
        expect(counted[.completionOverflows] == 0, "the completion ring overflowed")
        expect(mixed.daemons[node - 1].isRunning, "twilld has ended")
    }

    private func judgeChecksums(_ node: Int) {
        let found = corrupt[node - 1]
        if found.segments != 0 { mixed.fault("pod \(node)'s kernel found corrupt TCP segments") }
        guard let expected = injected["\(3 - node)-\(node)"]?.expected["packets_corrupt"] else { return }
        if found.datagrams != expected, kernelDropCount == 0 || found.datagrams > expected {
            mixed.fault(
                "pod \(node)'s kernel found \(found.datagrams) corrupt datagrams; \(expected) were injected")
        }
    }

    /// Where the kernel dropped nothing: what all nodes sent arrived at the others.
    private func judgeNetwork() {
        var sent = counts.reduce(0) { $0 + $1.sum([.packetsSent, .hellosSent]) } + 3 * nudges
        var received = counts.reduce(0) { $0 + $1[.datagramsReceived] }
        for injection in injected.values {
            sent += injection.datagrams
            received += injection.answers
        }
        if sent != received {
            mixed.fault(
                "\(sent) datagrams were sent between the nodes, \(received) arrived, and nobody dropped any")
        }
    }
}
