/// What a worker counts. The raw value is the counter's place in a `CounterBlock`.
public enum Counter: Int, CaseIterable, Sendable {
    // Pod to underlay.
    case tunnelReads
    case tunnelBytes
    case superPacketsRead
    case segmentsSent
    case packetsSent
    case bytesSent
    case sends
    case outboundPassed
    case congestionMarks
    case outboundIgnored
    case resentAfterErrors
    // Underlay to pod.
    case receives
    case datagramsReceived
    case bytesReceived
    case packetsDelivered
    case bytesDelivered
    case superPacketsWritten
    case segmentsCoalesced
    case tunnelWrites
    case inboundPassed
    // The loop.
    case enters
    case completions
    case sleeps
    case wakes
    case completionOverflows
    case receiveRearms
    case busyPolls
    case yields
    // Errors sent back.
    case unreachablesSent
    case timeExceededsSent
    case errorsSuppressed
    // Fallbacks taken at run time.
    case segmentationFallbacks
    case replayedSegments
    case shortTailFallbacks
    case mergedWriteFallbacks
    case rewrittenPackets
    // Fallbacks taken at the start.
    case receiveCoalescingFallbacks
    case tunnelStreamFallbacks
    case tunnelDatagramFallbacks
    case datagramSteeringFallbacks
    case packetSteeringFallbacks
    case lockedMemoryFallbacks
    case sendingSocketFallbacks
    // Drops from pod to underlay. What comes before these is no drop.
    case dropOutboundMalformedTooShort
    case dropOutboundMalformedVersion
    case dropOutboundMalformedHeaderLength
    case dropOutboundMalformedTotalLength
    case dropOutboundSuperPacketTruncated
    case dropOutboundSuperPacketVersion
    case dropOutboundSuperPacketLength
    case dropOutboundSuperPacketTransport
    case dropOutboundSuperPacketFragment
    case dropOutboundSuperPacketSegmentation
    case dropOutboundSuperPacketSegmentSize
    case dropOutboundSuperPacketSegmentCount
    case dropOutboundSuperPacketFlags
    case dropOutboundSuperPacketChecksumPlace
    case dropOutboundNoRoute
    case dropOutboundTimeToLive
    case dropOutboundTooLarge
    case dropOutboundNoBuffer
    case dropOutboundStandingQueue
    case dropOutboundSmallSegments
    case dropOutboundQueueFull
    case dropOutboundUnderlayFull
    case dropOutboundUnreachable
    case dropOutboundError
    // Drops from underlay to pod.
    case dropInboundTruncated
    case dropInboundTooShort
    case dropInboundVersion
    case dropInboundHeaderLength
    case dropInboundTotalLength
    case dropInboundHeaderChecksum
    case dropInboundTooLarge
    case dropInboundUnknownPeer
    case dropInboundSource
    case dropInboundDestination
    case dropInboundTimeToLive
    case dropInboundTunnelDown
    case dropInboundTunnelFull
    case dropInboundSocketFull
    case dropInboundError

    /// How many there are. Not `allCases.count`, which would be a call on the packet path; a test holds the two together.
    @inlinable @inline(__always)
    static var count: Int { Counter.dropInboundError.rawValue &+ 1 }

    /// The counter's name in text output: snake case, drops begin with `drop_`.
    public var name: String { Counter.names[rawValue] }

    static let names: [String] = Counter.allCases.map { counter in
        var name = ""
        for character in "\(counter)" {
            if character.isUppercase { name.append("_") }
            name.append(contentsOf: character.lowercased())
        }
        return name
    }

    /// One sentence for an operator: what was counted and, for a drop, what to do about it.
    public var meaning: String {
        switch self {
        case .tunnelReads: "Packets and super-packets read from the TUN device."
        case .tunnelBytes: "Bytes of those."
        case .superPacketsRead: "Of those, super-packets, segmented on the way out."
        case .segmentsSent:
            "Segments that super-packets were cut into, those that were dropped afterwards included."
        case .packetsSent: "Datagrams sent to peers, one an inner packet."
        case .bytesSent: "Inner bytes sent to peers."
        case .sends: "Send operations; packets_sent over sends is the batch size."
        case .outboundPassed: "Packets that went ahead of other flows' waiting super-packets."
        case .congestionMarks:
            "Super-packets of bulk flows marked (ECN), so that their senders take smaller windows: others' packets waited behind them."
        case .outboundIgnored:
            "Packets to multicast groups, broadcast and link-local addresses, such as the kernel's own router solicitations: for no peer, and no loss."
        case .resentAfterErrors:
            "Messages sent once more because the kernel reported an error with them, which may have been left by an ICMP message about another packet."
        case .receives: "Receive operations that brought datagrams."
        case .datagramsReceived: "Datagrams received, one an inner packet."
        case .bytesReceived: "Inner bytes received."
        case .packetsDelivered: "Inner packets written to the TUN device."
        case .bytesDelivered: "Inner bytes written to the TUN device."
        case .superPacketsWritten: "Super-packets among the writes."
        case .segmentsCoalesced: "Datagrams that were merged into super-packets."
        case .tunnelWrites: "Write operations to the TUN device."
        case .inboundPassed: "Datagrams that went ahead of other flows' waiting ones."
        case .enters: "System calls of the engine (io_uring_enter, or all calls of the mmsg engine)."
        case .completions: "Completed operations."
        case .sleeps: "Rounds in which the worker waited for work."
        case .wakes: "Wake-ups asked for by the control module."
        case .completionOverflows:
            "Times the completion ring overflowed. Nothing is lost; the ring is sized so that it does not: report it."
        case .receiveRearms: "Times the multishot receive ended and was armed again."
        case .busyPolls: "Rounds spent polling instead of sleeping."
        case .yields:
            "Times that a busy worker let other programs run: before it slept, or beside sparse traffic."
        case .unreachablesSent: "ICMP destination unreachable sent to pods."
        case .timeExceededsSent: "ICMP time exceeded sent."
        case .errorsSuppressed: "ICMP errors not sent, because of the rate limit or the rules of RFC 1122."
        case .segmentationFallbacks:
            "Times UDP segmentation failed and was switched off: each packet is a send of its own now, which costs CPU. "
                + "The underlay's driver lacks checksum offload (ethtool -k INTERFACE; ethtool -K INTERFACE tx on), or a "
                + "path carries less than the interface. It is tried again within a minute; --udp-gso=false never tries."
        case .replayedSegments: "Segments sent one by one after that failure."
        case .shortTailFallbacks:
            "The kernel refused merged packets whose last is shorter, and gets none for a while; 6.6.44 and 6.10.3 do, take a later one."
        case .mergedWriteFallbacks:
            "The kernel refused merged packets of one size; packets of that kind are written one by one for a while."
        case .rewrittenPackets: "Packets written one by one after such a refusal."
        case .receiveCoalescingFallbacks:
            "The kernel refused UDP_GRO (Linux 5.0); datagrams are received one by one."
        case .tunnelStreamFallbacks:
            "The TUN device takes no TCP super-packets; TCP goes packet by packet."
        case .tunnelDatagramFallbacks:
            "The TUN device takes no UDP super-packets (Linux 6.2); UDP goes packet by packet."
        case .datagramSteeringFallbacks:
            "The kernel refused to steer datagrams to workers by their source; it spreads them by a hash, less evenly."
        case .packetSteeringFallbacks:
            "The kernel refused to steer packets to workers by their flow; grant CAP_BPF, or use one worker where order matters."
        case .lockedMemoryFallbacks:
            "Packet buffers could not be locked, which costs a few percent; raise the memlock limit (LimitMEMLOCK=) or grant CAP_IPC_LOCK."
        case .sendingSocketFallbacks:
            "No second socket could be had on the port; what is sent leaves through the receiving one, which costs a few percent."
        case .dropOutboundMalformedTooShort:
            "From a pod, too short for an IP header; a program there writes raw packets: tcpdump -ni flannel0."
        case .dropOutboundMalformedVersion:
            "From a pod, neither IPv4 nor IPv6; a program there writes raw packets: tcpdump -ni flannel0."
        case .dropOutboundMalformedHeaderLength:
            "From a pod, an IP header length that is out of bounds; a program there writes raw packets."
        case .dropOutboundMalformedTotalLength:
            "From a pod, an IP total length that differs from the packet's; a program there writes raw packets."
        case .dropOutboundSuperPacketTruncated:
            "A super-packet shorter than its own headers. The kernel makes none: report it with the kernel's release."
        case .dropOutboundSuperPacketVersion:
            "A super-packet whose IP version is not its offload type's. The kernel makes none: report it."
        case .dropOutboundSuperPacketLength:
            "A super-packet whose IP or UDP length is not its own. The kernel makes none: report it."
        case .dropOutboundSuperPacketTransport:
            "A super-packet whose transport is not its offload type's, or lies behind IPv6 extension headers; "
                + "--tun-tso4=false and --tun-tso6=false make the kernel cut them."
        case .dropOutboundSuperPacketFragment:
            "A super-packet that is a fragment, which cannot be cut. The kernel makes none: report it."
        case .dropOutboundSuperPacketSegmentation:
            "A super-packet of an offload type that twilld did not ask for. The kernel makes none: report it."
        case .dropOutboundSuperPacketSegmentSize:
            "A super-packet without payload or segment size, or with segments larger than a datagram: report it."
        case .dropOutboundSuperPacketSegmentCount:
            "A super-packet of more segments than the kernel's TCP (744) or UDP (128) make; a program in a pod writes such to a packet socket."
        case .dropOutboundSuperPacketFlags:
            "A TCP super-packet with SYN, RST or URG, which no segment may repeat; --tun-tso4=false and --tun-tso6=false make the kernel "
                + "cut them."
        case .dropOutboundSuperPacketChecksumPlace:
            "A packet whose checksum is to be written outside of it or of its transport; a program with a packet "
                + "socket (a virtual machine's monitor) made it."
        case .dropOutboundNoRoute: "No peer holds the destination; see the peers in twilld status."
        case .dropOutboundTimeToLive: "Time to live ran out; look for a routing loop."
        case .dropOutboundTooLarge: "Larger than the path to the peer carries; check MTUs along the underlay."
        case .dropOutboundNoBuffer: "All send slots were in use: more peers at once than one round sends to."
        case .dropOutboundStandingQueue:
            "Super-packets of bulk flows dropped, so that their senders take smaller windows: others' packets waited behind them. "
                + "TCP expects that; a flow with ECN is marked instead (congestion_marks)."
        case .dropOutboundSmallSegments:
            "Super-packets of many small segments, while others such waited: a program in a pod would take the packet thread from all others."
        case .dropOutboundQueueFull:
            "The TUN device's queue was full: pods sent faster than the packet thread reads; --queue-length, more CPU or more --workers."
        case .dropOutboundUnderlayFull:
            "The underlay socket's buffer was full: the network is slower than the pods send."
        case .dropOutboundUnreachable:
            "The kernel has no way to the peer's address; check the underlay's routes."
        case .dropOutboundError:
            "The kernel refused the send for another reason; report it with the kernel's release."
        case .dropInboundTruncated:
            "A datagram larger than a receive buffer; no node sends one: tcpdump -ni INTERFACE udp port 8285."
        case .dropInboundTooShort:
            "A datagram too short for an IP header: something else than a node sends to this port."
        case .dropInboundVersion:
            "A datagram that is neither IPv4 nor IPv6: something else than a node sends to this port."
        case .dropInboundHeaderLength:
            "An IP header length that is out of bounds: something else than a node sends to this port."
        case .dropInboundTotalLength:
            "An IP total length that differs from the datagram's: something else than a node sends to this port."
        case .dropInboundHeaderChecksum:
            "An IPv4 header whose checksum is wrong: damaged on the way, or not sent by a node."
        case .dropInboundTooLarge:
            "Larger than the MTU of the TUN device; the sender's MTU is larger than ours."
        case .dropInboundUnknownPeer:
            "From an address that no lease names: a node not registered, or not one of ours."
        case .dropInboundSource:
            "Inner source outside the peer's subnet (--accept-any-source lets it pass), or one that no host has, such as 0.0.0.0."
        case .dropInboundDestination:
            "Inner destination outside this node's subnet: the sender has an old lease."
        case .dropInboundTimeToLive: "Time to live ran out; look for a routing loop."
        case .dropInboundTunnelDown:
            "The TUN device was down; twilld brings it up again and says restored in the log: find out who takes it down."
        case .dropInboundTunnelFull:
            "The kernel had no memory for the packet just then: look at the node's memory."
        case .dropInboundSocketFull:
            "Datagrams (some of them several that the kernel had merged) that the underlay socket's buffer had no room for, or with a wrong UDP checksum: more came than the packet thread takes; --socket-buffer, more CPU or more --workers."
        case .dropInboundError:
            "The kernel refused the write for another reason; report it with the kernel's release."
        }
    }

    /// Whether the counter counts packets that were lost.
    public var isDrop: Bool { rawValue >= Counter.dropOutboundMalformedTooShort.rawValue }

    /// Whether the counter counts ways of doing something that failed at run time and were given up for a slower
    /// one. By its name, so that the log and `twilld status` know of each.
    public var isFallback: Bool { name.hasSuffix("_fallbacks") }
}
