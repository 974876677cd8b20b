import Counters
import Engines
import Offload
import PacketHeaders

extension Worker where Engine: ~Copyable {
    /// What counts a packet that the tunnel device gave and that is no whole one.
    func counter(of flaw: IPPacketFlaw) -> Counter {
        switch flaw {
        case .tooShort: .dropOutboundMalformedTooShort
        case .version: .dropOutboundMalformedVersion
        // The checksum is not looked at: the kernel wrote it.
        case .headerLength, .headerChecksum: .dropOutboundMalformedHeaderLength
        case .totalLength: .dropOutboundMalformedTotalLength
        }
    }

    /// What counts a super-packet that cannot be cut into segments.
    func counter(of refusal: OffloadRefusal) -> Counter {
        switch refusal {
        case .truncated: .dropOutboundSuperPacketTruncated
        case .version: .dropOutboundSuperPacketVersion
        case .length: .dropOutboundSuperPacketLength
        case .transport: .dropOutboundSuperPacketTransport
        case .fragment: .dropOutboundSuperPacketFragment
        case .segmentation: .dropOutboundSuperPacketSegmentation
        case .segmentSize: .dropOutboundSuperPacketSegmentSize
        case .segmentCount: .dropOutboundSuperPacketSegmentCount
        case .flags: .dropOutboundSuperPacketFlags
        case .checksumPlace: .dropOutboundSuperPacketChecksumPlace
        }
    }
}
