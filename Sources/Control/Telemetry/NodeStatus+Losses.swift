import Addresses
public import Counters

extension NodeStatus {
    /// The last time that packets found no room, however few.
    public struct Loss: Codable, Sendable, Equatable {
        /// Why packets found no room.
        public enum Verdict: String, Codable, Sendable {
            /// The packet threads had no processor meanwhile.
            case starved
            /// They had, and more came than they take.
            case dropped

            /// What to do about it; an order, without a full stop.
            public var remedy: String {
                switch self {
                case .starved:
                    "give twilld processor time: fewer programs beside it, a higher CPU weight, --cpus; with steal, a machine that is shared less"
                case .dropped:
                    "give it more workers (--workers), or more room: --queue-length towards the peers, --socket-buffer from them"
                }
            }
        }

        /// Packets that were lost for one reason.
        public struct Drop: Codable, Sendable, Equatable {
            /// The counter's name.
            public var reason: String
            /// How many.
            public var packets: UInt64

            /// Makes a number of packets.
            public init(reason: String, packets: UInt64) {
                self.reason = reason
                self.packets = packets
            }
        }

        /// Why.
        public var verdict: Verdict
        /// How many packets found no room.
        public var packets: UInt64
        /// Seconds since the last of them.
        public var secondsAgo: Double
        /// Seconds that it lasted, and in which the shares below were measured.
        public var durationSeconds: Double
        /// What was lost meanwhile, whatever the reason.
        public var drops: [Drop]
        /// The share of the time in which a packet thread waited for a processor; nil where the kernel does not tell.
        public var threadWaitShare: Double?
        /// The share of all processors' time that the hypervisor gave to others; nil where the kernel does not tell.
        public var stealShare: Double?
        /// The share of the time in which some program waited for a processor (PSI); nil where the kernel does not tell.
        public var pressureShare: Double?

        /// Makes a loss.
        public init(
            verdict: Verdict, packets: UInt64, secondsAgo: Double, durationSeconds: Double, drops: [Drop],
            threadWaitShare: Double?, stealShare: Double?, pressureShare: Double?
        ) {
            self.verdict = verdict
            self.packets = packets
            self.secondsAgo = secondsAgo
            self.durationSeconds = durationSeconds
            self.drops = drops
            self.threadWaitShare = threadWaitShare
            self.stealShare = stealShare
            self.pressureShare = pressureShare
        }

        /// What the processors did meanwhile, in words.
        public var evidence: String {
            func percent(_ share: Double?, _ words: String) -> String? {
                share.map { "\(Int(exactly: ($0 * 100).rounded()) ?? 0)% \(words)" }
            }
            let shares = [
                percent(threadWaitShare, "of the time a packet thread waited for a processor"),
                percent(stealShare, "steal"), percent(pressureShare, "CPU pressure"),
            ].compactMap(\.self)
            let words =
                shares.isEmpty ? "the kernel tells nothing of its processors" : shares.joined(separator: ", ")
            return "\(packets) packets within \(NodeStatus.duration(durationSeconds)), \(words)"
        }
    }

    /// One of the last packets that were dropped for a reason.
    public struct Offender: Codable, Sendable, Equatable {
        /// The counter's name.
        public var reason: String
        /// Seconds since then.
        public var secondsAgo: Double
        /// Bytes of the packet.
        public var length: Int
        /// The inner source and destination with their ports and the transport, where the packet has them.
        public var packet: String
        /// The inner source; nil where the packet is no IP packet.
        public var source: String?
        /// The inner destination; nil where the packet is no IP packet.
        public var destination: String?
        /// The source port; nil where there is none.
        public var sourcePort: UInt16?
        /// The destination port; nil where there is none.
        public var destinationPort: UInt16?
        /// The other side of the underlay: who sent it, or whom it was to be sent to; nil where there was none yet.
        public var peer: String?

        /// Makes an offender of what was kept.
        ///
        /// - Parameters:
        ///   - packet: as the worker kept it.
        ///   - now: nanoseconds of the monotonic clock.
        public init(_ packet: DroppedPacket, nowNanoseconds now: UInt64) {
            let words = PacketWords(packet.head)
            reason = packet.reason.name
            secondsAgo = now > packet.nanoseconds ? Double(now &- packet.nanoseconds) / 1e9 : 0
            length = packet.length
            self.packet = words.text
            source = words.source.map { "\($0)" }
            destination = words.destination.map { "\($0)" }
            sourcePort = words.sourcePort
            destinationPort = words.destinationPort
            peer = Endpoint(recorded: packet.socketName).map { "\($0)" }
        }

        /// For a terminal: `10.66.2.7:443 > 10.66.3.9:51000 TCP, 60 bytes, from 192.168.0.2:8285, 4s ago`.
        var line: String {
            let other = peer.map { ", \(reason.hasPrefix("drop_in") ? "from" : "to") \($0)" } ?? ""
            return "\(packet), \(length) bytes\(other), \(NodeStatus.duration(secondsAgo)) ago"
        }
    }

    /// How the data plane works.
    public struct Engine: Codable, Sendable, Equatable {
        /// `uring` or `mmsg`.
        public var name: String
        /// Packet threads.
        public var workers: Int
        /// What kernel and device take off the processors: `udp-gso`, `udp-gro`, `tun-tso4`, …
        public var offloads: [String]
        /// What was asked for of these and is not to be had.
        public var missingOffloads: [String]

        /// Makes an engine.
        public init(name: String, workers: Int, offloads: [String], missingOffloads: [String]) {
            self.name = name
            self.workers = workers
            self.offloads = offloads
            self.missingOffloads = missingOffloads
        }
    }
}
