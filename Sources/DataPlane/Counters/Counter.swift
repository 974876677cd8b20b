/// What a worker counts. What a counter is called and means, and whether it is a drop, `definition` says below.
/// The raw value is its place in a `CounterBlock`.
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
    // Past the workers, by the kernel path.
    case kernelPathPacketsSent
    case kernelPathPacketsReceived
    case kernelPathKeptInOrder
    case kernelPathLeftToRing
    case kernelPathStrays
    // Between the nodes.
    case hellosSent
    case hellosReceived
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
    // Drops from pod to underlay.
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
    case dropKernelPathMemory
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
}

extension Counter {
    /// What kind of thing a counter counts.
    enum Kind {
        /// Something that happened.
        case event
        /// A way of doing something that was given up for a slower one.
        case fallback
        /// Packets that were lost.
        case drop
    }

    /// What a counter is called and what it means.
    struct Definition {
        /// The name in the metrics, the status and the documentation: part of the public interface, whatever the case
        /// is called.
        let name: String
        /// What kind of thing it counts.
        let kind: Kind
        /// One sentence for an operator: what was counted and, for a drop, what to do about it.
        let meaning: String

        init(_ name: String, _ kind: Kind, _ meaning: String) {
            self.name = name
            self.kind = kind
            self.meaning = meaning
        }
    }

    /// The counter's name in text output: snake case, drops begin with `drop_`.
    public var name: String { definition.name }

    /// One sentence for an operator: what was counted and, for a drop, what to do about it.
    public var meaning: String { definition.meaning }

    /// Whether the counter counts packets that were lost.
    public var isDrop: Bool { definition.kind == .drop }

    /// Whether the counter counts ways of doing something that failed and were given up for a slower one. The log and
    /// `twilld status` tell of each.
    public var isFallback: Bool { definition.kind == .fallback }

    /// What the counter is called and what it means. A new counter is a case and an entry here, and the place that
    /// counts.
    var definition: Definition {
        // Longer than a function should be: a table, which the compiler holds to the cases.
        switch self {
        case .tunnelReads:
            Definition("tunnel_reads", .event, "Packets and super-packets read from the TUN device.")
        case .tunnelBytes:
            Definition("tunnel_bytes", .event, "Bytes of those.")
        case .superPacketsRead:
            Definition("super_packets_read", .event, "Of those, super-packets, segmented on the way out.")
        case .segmentsSent:
            Definition(
                "segments_sent", .event,
                "Segments that super-packets were cut into, those that were dropped afterwards included.")
        case .packetsSent:
            Definition("packets_sent", .event, "Datagrams sent to peers, one an inner packet.")
        case .bytesSent:
            Definition("bytes_sent", .event, "Inner bytes sent to peers.")
        case .sends:
            Definition("sends", .event, "Send operations; packets_sent over sends is the batch size.")
        case .outboundPassed:
            Definition(
                "outbound_passed", .event,
                "Packets of sparse flows that were sent before other flows' waiting super-packets.")
        case .congestionMarks:
            Definition(
                "congestion_marks", .event,
                "Super-packets of bulk flows marked (ECN), so that their senders take smaller windows: others' packets waited behind them."
            )
        case .outboundIgnored:
            Definition(
                "outbound_ignored", .event,
                "Packets to multicast groups, broadcast and link-local addresses, such as the kernel's own router solicitations: for no peer, and no loss."
            )
        case .resentAfterErrors:
            Definition(
                "resent_after_errors", .event,
                "Messages sent once more because the kernel reported an error with them, which may have been left by an ICMP message about another packet."
            )
        case .receives:
            Definition("receives", .event, "Receive operations that brought datagrams.")
        case .datagramsReceived:
            Definition("datagrams_received", .event, "Datagrams received, one an inner packet.")
        case .bytesReceived:
            Definition("bytes_received", .event, "Inner bytes received.")
        case .packetsDelivered:
            Definition("packets_delivered", .event, "Inner packets written to the TUN device.")
        case .bytesDelivered:
            Definition("bytes_delivered", .event, "Inner bytes written to the TUN device.")
        case .superPacketsWritten:
            Definition("super_packets_written", .event, "Super-packets among the writes.")
        case .segmentsCoalesced:
            Definition("segments_coalesced", .event, "Datagrams that were merged into super-packets.")
        case .tunnelWrites:
            Definition("tunnel_writes", .event, "Write operations to the TUN device.")
        case .inboundPassed:
            Definition(
                "inbound_passed", .event,
                "Datagrams of sparse flows that were delivered before other flows' waiting ones.")
        case .kernelPathPacketsSent:
            Definition(
                "kernel_path_packets_sent", .event,
                "Of packets_sent, those that the kernel path sent past the packet threads.")
        case .kernelPathPacketsReceived:
            Definition(
                "kernel_path_packets_received", .event,
                "Of packets_delivered, those that the kernel path delivered past the packet threads.")
        case .kernelPathKeptInOrder:
            Definition(
                "kernel_path_kept_in_order", .event,
                "Small packets to able peers that went by the packet threads, since their flow was there: it is bulk, or was a moment ago."
            )
        case .kernelPathLeftToRing:
            Definition(
                "kernel_path_left_to_ring", .event,
                "Datagrams without a UDP checksum that the kernel path did not take in: hellos, and what the packet threads were left to judge."
            )
        case .kernelPathStrays:
            Definition(
                "kernel_path_strays", .event,
                "Packets of a peer's kernel path that this node's did not take, and whose TCP or UDP checksum was completed here."
            )
        case .hellosSent:
            Definition(
                "hellos_sent", .event,
                "Questions to peers whether they take kernel-path datagrams in, and answers to theirs.")
        case .hellosReceived:
            Definition("hellos_received", .event, "Such questions and answers that came from peers.")
        case .enters:
            Definition(
                "enters", .event,
                "System calls of the engine (io_uring_enter, or all calls of the mmsg engine).")
        case .completions:
            Definition("completions", .event, "Completed operations.")
        case .sleeps:
            Definition("sleeps", .event, "Rounds in which the worker waited for work.")
        case .wakes:
            Definition("wakes", .event, "Wake-ups asked for by the control module.")
        case .completionOverflows:
            Definition(
                "completion_overflows", .event,
                "Times the completion ring overflowed. Nothing is lost; the ring is sized so that it does not: report it."
            )
        case .receiveRearms:
            Definition("receive_rearms", .event, "Times the multishot receive ended and was armed again.")
        case .busyPolls:
            Definition("busy_polls", .event, "Rounds spent polling instead of sleeping.")
        case .yields:
            Definition(
                "yields", .event,
                "Times that a busy worker let other programs run: before it slept, or beside sparse traffic.")
        case .unreachablesSent:
            Definition("unreachables_sent", .event, "ICMP destination unreachable sent to pods.")
        case .timeExceededsSent:
            Definition("time_exceededs_sent", .event, "ICMP time exceeded sent.")
        case .errorsSuppressed:
            Definition(
                "errors_suppressed", .event,
                "ICMP errors not sent, because of the rate limit or the rules of RFC 1122.")
        case .segmentationFallbacks:
            Definition(
                "segmentation_fallbacks", .fallback,
                "Times UDP segmentation failed and was switched off: each packet is a send of its own now, which costs CPU. "
                    + "The underlay's driver lacks checksum offload (ethtool -k INTERFACE; ethtool -K INTERFACE tx on), or a "
                    + "path carries less than the interface. It is tried again within a minute; --udp-gso=false never tries."
            )
        case .replayedSegments:
            Definition("replayed_segments", .event, "Segments sent one by one after that failure.")
        case .shortTailFallbacks:
            Definition(
                "short_tail_fallbacks", .fallback,
                "The kernel refused merged packets whose last is shorter, and gets none for a while; 6.6.44 and 6.10.3 do, take a later one."
            )
        case .mergedWriteFallbacks:
            Definition(
                "merged_write_fallbacks", .fallback,
                "The kernel refused merged packets of one size; packets of that kind are written one by one for a while."
            )
        case .rewrittenPackets:
            Definition("rewritten_packets", .event, "Packets written one by one after such a refusal.")
        case .receiveCoalescingFallbacks:
            Definition(
                "receive_coalescing_fallbacks", .fallback,
                "The kernel refused UDP_GRO (Linux 5.0); datagrams are received one by one.")
        case .tunnelStreamFallbacks:
            Definition(
                "tunnel_stream_fallbacks", .fallback,
                "The TUN device takes no TCP super-packets; TCP goes packet by packet.")
        case .tunnelDatagramFallbacks:
            Definition(
                "tunnel_datagram_fallbacks", .fallback,
                "The TUN device takes no UDP super-packets (Linux 6.2); UDP goes packet by packet.")
        case .datagramSteeringFallbacks:
            Definition(
                "datagram_steering_fallbacks", .fallback,
                "The kernel refused to steer datagrams to workers by their source; it spreads them by a hash, less evenly."
            )
        case .packetSteeringFallbacks:
            Definition(
                "packet_steering_fallbacks", .fallback,
                "The kernel refused to steer packets to workers by their flow; grant CAP_BPF, or use one worker where order matters."
            )
        case .lockedMemoryFallbacks:
            Definition(
                "locked_memory_fallbacks", .fallback,
                "Packet buffers could not be locked, which costs a few percent; raise the memlock limit (LimitMEMLOCK=) or grant CAP_IPC_LOCK."
            )
        case .sendingSocketFallbacks:
            Definition(
                "sending_socket_fallbacks", .fallback,
                "No second socket could be had on the port; what is sent leaves through the receiving one, which costs a few percent."
            )
        case .dropOutboundMalformedTooShort:
            Definition(
                "drop_outbound_malformed_too_short", .drop,
                "From a pod, too short for an IP header; a program there writes raw packets: tcpdump -ni flannel0."
            )
        case .dropOutboundMalformedVersion:
            Definition(
                "drop_outbound_malformed_version", .drop,
                "From a pod, neither IPv4 nor IPv6; a program there writes raw packets: tcpdump -ni flannel0."
            )
        case .dropOutboundMalformedHeaderLength:
            Definition(
                "drop_outbound_malformed_header_length", .drop,
                "From a pod, an IP header length that is out of bounds; a program there writes raw packets.")
        case .dropOutboundMalformedTotalLength:
            Definition(
                "drop_outbound_malformed_total_length", .drop,
                "From a pod, an IP total length that differs from the packet's; a program there writes raw packets."
            )
        case .dropOutboundSuperPacketTruncated:
            Definition(
                "drop_outbound_super_packet_truncated", .drop,
                "A super-packet shorter than its own headers. The kernel makes none: report it with the kernel's release."
            )
        case .dropOutboundSuperPacketVersion:
            Definition(
                "drop_outbound_super_packet_version", .drop,
                "A super-packet whose IP version is not its offload type's. The kernel makes none: report it."
            )
        case .dropOutboundSuperPacketLength:
            Definition(
                "drop_outbound_super_packet_length", .drop,
                "A super-packet whose IP or UDP length is not its own. The kernel makes none: report it.")
        case .dropOutboundSuperPacketTransport:
            Definition(
                "drop_outbound_super_packet_transport", .drop,
                "A super-packet whose transport is not its offload type's, or lies behind IPv6 extension headers; "
                    + "--tun-tso4=false and --tun-tso6=false make the kernel cut them.")
        case .dropOutboundSuperPacketFragment:
            Definition(
                "drop_outbound_super_packet_fragment", .drop,
                "A super-packet that is a fragment, which cannot be cut. The kernel makes none: report it.")
        case .dropOutboundSuperPacketSegmentation:
            Definition(
                "drop_outbound_super_packet_segmentation", .drop,
                "A super-packet of an offload type that twilld did not ask for. The kernel makes none: report it."
            )
        case .dropOutboundSuperPacketSegmentSize:
            Definition(
                "drop_outbound_super_packet_segment_size", .drop,
                "A super-packet without payload or segment size, or with segments larger than a datagram: report it."
            )
        case .dropOutboundSuperPacketSegmentCount:
            Definition(
                "drop_outbound_super_packet_segment_count", .drop,
                "A super-packet of more segments than the kernel's TCP (744) or UDP (128) make; a program in a pod writes such to a packet socket."
            )
        case .dropOutboundSuperPacketFlags:
            Definition(
                "drop_outbound_super_packet_flags", .drop,
                "A TCP super-packet with SYN, RST or URG, which no segment may repeat; --tun-tso4=false and --tun-tso6=false make the kernel "
                    + "cut them.")
        case .dropOutboundSuperPacketChecksumPlace:
            Definition(
                "drop_outbound_super_packet_checksum_place", .drop,
                "A packet whose checksum is to be written outside of it or of its transport; a program with a packet "
                    + "socket (a virtual machine's monitor) made it.")
        case .dropOutboundNoRoute:
            Definition(
                "drop_outbound_no_route", .drop,
                "No peer holds the destination; see the peers in twilld status.")
        case .dropOutboundTimeToLive:
            Definition("drop_outbound_time_to_live", .drop, "Time to live ran out; look for a routing loop.")
        case .dropOutboundTooLarge:
            Definition(
                "drop_outbound_too_large", .drop,
                "Larger than the path to the peer carries; check MTUs along the underlay.")
        case .dropOutboundNoBuffer:
            Definition(
                "drop_outbound_no_buffer", .drop,
                "All send slots were in use: more peers at once than one round sends to.")
        case .dropOutboundStandingQueue:
            Definition(
                "drop_outbound_standing_queue", .drop,
                "Super-packets of bulk flows dropped, so that their senders take smaller windows: others' packets waited behind "
                    + "them, or more waited than a flanneld takes in. TCP expects that; a flow with ECN is marked instead "
                    + "(congestion_marks), but for what waits for a flanneld.")
        case .dropOutboundSmallSegments:
            Definition(
                "drop_outbound_small_segments", .drop,
                "Super-packets of many small segments, while others such waited: a program in a pod would take the packet thread from all others."
            )
        case .dropOutboundQueueFull:
            Definition(
                "drop_outbound_queue_full", .drop,
                "The TUN device's queue was full: pods sent faster than the packet thread reads; --queue-length, more CPU or more --workers."
            )
        case .dropOutboundUnderlayFull:
            Definition(
                "drop_outbound_underlay_full", .drop,
                "The underlay socket's buffer was full: the network is slower than the pods send.")
        case .dropOutboundUnreachable:
            Definition(
                "drop_outbound_unreachable", .drop,
                "The kernel has no way to the peer's address; check the underlay's routes.")
        case .dropOutboundError:
            Definition(
                "drop_outbound_error", .drop,
                "The kernel refused the send for another reason; report it with the kernel's release.")
        case .dropKernelPathMemory:
            Definition(
                "drop_kernel_path_memory", .drop,
                "The kernel had no memory for a packet that the kernel path was forwarding: look at the node's memory."
            )
        case .dropInboundTruncated:
            Definition(
                "drop_inbound_truncated", .drop,
                "A datagram larger than a receive buffer; no node sends one: tcpdump -ni INTERFACE udp port 8285."
            )
        case .dropInboundTooShort:
            Definition(
                "drop_inbound_too_short", .drop,
                "A datagram too short for an IP header: something else than a node sends to this port.")
        case .dropInboundVersion:
            Definition(
                "drop_inbound_version", .drop,
                "A datagram that is neither IPv4 nor IPv6: something else than a node sends to this port.")
        case .dropInboundHeaderLength:
            Definition(
                "drop_inbound_header_length", .drop,
                "An IP header length that is out of bounds: something else than a node sends to this port.")
        case .dropInboundTotalLength:
            Definition(
                "drop_inbound_total_length", .drop,
                "An IP total length that differs from the datagram's: something else than a node sends to this port."
            )
        case .dropInboundHeaderChecksum:
            Definition(
                "drop_inbound_header_checksum", .drop,
                "An IPv4 header whose checksum is wrong: damaged on the way, or not sent by a node.")
        case .dropInboundTooLarge:
            Definition(
                "drop_inbound_too_large", .drop,
                "Larger than the MTU of the TUN device; the sender's MTU is larger than ours.")
        case .dropInboundUnknownPeer:
            Definition(
                "drop_inbound_unknown_peer", .drop,
                "From an address that no lease names: a node not registered, or not one of ours.")
        case .dropInboundSource:
            Definition(
                "drop_inbound_source", .drop,
                "Inner source outside the peer's subnet (--accept-any-source lets it pass), or one that no host has, such as 0.0.0.0."
            )
        case .dropInboundDestination:
            Definition(
                "drop_inbound_destination", .drop,
                "Inner destination outside this node's subnet: the sender has an old lease.")
        case .dropInboundTimeToLive:
            Definition("drop_inbound_time_to_live", .drop, "Time to live ran out; look for a routing loop.")
        case .dropInboundTunnelDown:
            Definition(
                "drop_inbound_tunnel_down", .drop,
                "The TUN device was down; twilld brings it up again and says restored in the log: find out who takes it down."
            )
        case .dropInboundTunnelFull:
            Definition(
                "drop_inbound_tunnel_full", .drop,
                "The kernel had no memory for the packet just then: look at the node's memory.")
        case .dropInboundSocketFull:
            Definition(
                "drop_inbound_socket_full", .drop,
                "Datagrams (some of them several that the kernel had merged) that the underlay socket's buffer had no room for, or with a wrong UDP checksum: more came than the packet thread takes; --socket-buffer, more CPU or more --workers."
            )
        case .dropInboundError:
            Definition(
                "drop_inbound_error", .drop,
                "The kernel refused the write for another reason; report it with the kernel's release.")
        }
    }
}
