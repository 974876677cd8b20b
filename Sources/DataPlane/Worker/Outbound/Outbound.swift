// The way of a packet from the TUN device to the underlay, in the order of the steps:
//
//   read → queued, or prioritized → whole IP packet? → which peer? → TTL decremented
//        → checksum completed, or super-packet segmented → joined to the open message of that peer → sealed → sent
//        → buffer free
// A packet that goes nowhere is answered with an ICMP error, written back into the TUN device.

import Addresses
import CLinux
import Counters
import Engines
import Forwarding
import Glibc
import PacketHeaders
import Offload

extension Worker where Engine: ~Copyable {
    /// Takes what was read into a tunnel buffer. A super-packet is queued (`forwardWaiting`), and so is what finds
    /// one in the queue, unless its flow is a sparse one: then it is forwarded at once.
    @inline(__always)
    mutating func readArrived(_ buffer: Int, length: Int) {
        outboundTimer.noteFilled(buffer, atNanoseconds: workBeganNanoseconds)
        let bytes = memory.tunnelBuffer(buffer) + PacketMemory.tunnelPacketOffset
        let header = (memory.tunnelBuffer(buffer) + PacketMemory.virtioHeaderOffset)
            .loadUnaligned(as: virtio_net_hdr.self)
        if header.gso_type == 0, waitingReads.count == 0, pacedReads.count == 0 {
            return forward(buffer, length: length)
        }
        let packetLength = length &- (PacketMemory.tunnelPacketOffset &- PacketMemory.virtioHeaderOffset)
        if snapshot.hasPacedPeers,
            isPaced(bytes, length: packetLength, in: buffer, readLength: length, header: header)
        {
            return
        }
        if header.gso_type == 0, waitingReads.count == 0 { return forward(buffer, length: length) }
        let flow = PacketFlow.number(of: bytes, length: packetLength)
        let segments = WaitingReads.segments(of: header, length: packetLength)
        if waitingReads.count > 0, packetLength < WorkerLimits.bulkBytes,
            waitingFlows.mayBePrioritized(flow, atNanoseconds: workBeganNanoseconds),
            messages.freeCount >= messagesOfSuperPacket
        {
            counters.add(.outboundPassed)
            notePrioritized(bytes, length: packetLength)
            work.hasPrioritized = true
            return forward(buffer, length: length, isPrioritized: true)
        }
        guard waitingReads.hasRoom(forSegments: segments) else {
            counters.add(.tunnelReads)
            counters.add(.tunnelBytes, max(packetLength, 0))
            return drop(buffer, .dropOutboundSmallSegments, length: packetLength)
        }
        waitingFlows.add(flow, bytes: packetLength, atNanoseconds: workBeganNanoseconds)
        waitingReads.append(
            WaitingRead(
                buffer: Int32(truncatingIfNeeded: buffer), length: Int32(truncatingIfNeeded: length),
                segments: Int32(truncatingIfNeeded: segments), flow: flow),
            from: WaitingReads.source(of: bytes, length: packetLength))
    }

    /// The peer that a packet in a tunnel buffer goes to, where it is one that takes no bursts.
    @inline(__always)
    private func pacedPeer(
        of bytes: UnsafeMutableRawPointer, length: Int
    ) -> ForwardingSnapshot.PeerIndex? {
        guard IPPacket.flaw(bytes, length: length, verifyingChecksum: false) == nil else { return nil }
        let packet = IPPacket(bytes, length: length)
        let peer =
            packet.isIPv4
            ? snapshot.peer(holding: packet.destinationIPv4) : snapshot.peer(holding: packet.destinationIPv6)
        guard let peer, snapshot.isPaced(peer) else { return nil }
        return peer
    }

    /// Takes a packet for a peer that takes no bursts: into that peer's queue, or, where it is no burst, at once if
    /// nothing waits there, or if it is of a sparse flow. It waits nowhere else, so that its flow keeps its order.
    ///
    /// - Returns: whether it is for such a peer, and was taken.
    private mutating func isPaced(
        _ bytes: UnsafeMutableRawPointer, length: Int, in buffer: Int, readLength: Int, header: virtio_net_hdr
    ) -> Bool {
        guard let peer = pacedPeer(of: bytes, length: length) else { return false }
        let place = PacedReads.place(of: snapshot.endpoint(peer))
        let flow = PacketFlow.number(of: bytes, length: length)
        // Until a moment ago the peer took bursts, and this flow still waits among the others.
        if waitingFlows.waits(flow) { return false }
        if header.gso_type == 0 {
            let isAlone = pacedReads.isEmpty(place)
            if isAlone || pacedFlows.mayBePrioritized(flow, atNanoseconds: workBeganNanoseconds) {
                let passesOthers = !isAlone || waitingReads.count > 0
                forward(buffer, length: readLength, isPrioritized: passesOthers)
                return true
            }
        }
        guard pacedReads.count < limits.pacedReads else {
            counters.add(.tunnelReads)
            counters.add(.tunnelBytes, length)
            drop(buffer, .dropOutboundStandingQueue, length: length)
            return true
        }
        pacedFlows.add(flow, bytes: length, atNanoseconds: workBeganNanoseconds)
        pacedReads.append(
            WaitingRead(
                buffer: Int32(truncatingIfNeeded: buffer), length: Int32(truncatingIfNeeded: readLength),
                segments: Int32(truncatingIfNeeded: WaitingReads.segments(of: header, length: length)),
                flow: flow),
            for: place)
        return true
    }

    /// Forwards what waits for peers that take no bursts, and whose pause is over.
    mutating func forwardPaced() {
        while pacedReads.count > 0, messages.freeCount >= messagesOfSuperPacket,
            let read = pacedReads.removeDue(atNanoseconds: workBeganNanoseconds)
        {
            pacedFlows.remove(read.flow)
            forward(Int(read.buffer), length: Int(read.length))
        }
    }

    /// Forwards what waits for peers that take bursts by a new snapshot, before anything that comes after it.
    mutating func forwardUnpaced() {
        var place = 0
        while place < WorkerLimits.pacedPeers {
            guard !pacedReads.isEmpty(place), messages.freeCount >= messagesOfSuperPacket else {
                place &+= 1
                continue
            }
            let first = pacedReads.first(of: place)
            let bytes = memory.tunnelBuffer(Int(first.buffer)) + PacketMemory.tunnelPacketOffset
            let length =
                Int(first.length) &- (PacketMemory.tunnelPacketOffset &- PacketMemory.virtioHeaderOffset)
            guard pacedPeer(of: bytes, length: length) == nil else {
                place &+= 1
                continue
            }
            let read = pacedReads.removeFirst(of: place)
            pacedFlows.remove(read.flow)
            forward(Int(read.buffer), length: Int(read.length))
        }
    }

    /// Messages that a super-packet may need: where every segment is a send of its own, as many.
    private var messagesOfSuperPacket: Int {
        segmentLimit > 1 ? WorkerLimits.messagesOfSuperPacket : SuperPacketLimits.sendSegments
    }

    /// Forwards packets that wait, those of each source in order: as many super-packets as a round may, or segments,
    /// and what whole packets lie between them. The rest waits for the next round, which first takes in what has come
    /// meanwhile.
    @inline(__always)
    mutating func forwardWaiting() {
        guard waitingReads.count > 0 else { return }
        // What was prioritized leaves first, and joins nothing that waits.
        if work.hasPrioritized { messages.sealAll(openedIn: messages.round) }
        let segmentBatch = superPacketBatch &* WorkerLimits.superPacketSegments
        while waitingReads.count > 0, work.superPackets < superPacketBatch, work.segments < segmentBatch,
            messages.freeCount >= messagesOfSuperPacket
        {
            let isFull = waitingReads.count >= limits.fullQueueReads
            let read = waitingReads.removeFirst()
            waitingFlows.remove(read.flow)
            let isMarked =
                Int(read.length) >= WorkerLimits.bulkBytes
                && standingQueue.marks(whileFull: isFull, atNanoseconds: workBeganNanoseconds)
            forward(Int(read.buffer), length: Int(read.length), isMarked: isMarked)
        }
    }

    /// Forwards what was read into a tunnel buffer, and gives the buffer back where nothing came of it.
    ///
    /// - Parameters:
    ///   - isPrioritized: whether others that came before it still wait.
    ///   - isMarked: whether active queue management chose it (StandingQueue.swift). Where its flow takes part in
    ///     explicit congestion notification it is sent with the CE mark, else it is dropped; TCP reads either as
    ///     congestion.
    @inline(__always)
    private mutating func forward(
        _ buffer: Int, length: Int, isPrioritized: Bool = false, isMarked: Bool = false
    ) {
        let start = memory.tunnelBuffer(buffer)
        let bytes = start + PacketMemory.tunnelPacketOffset
        let packetLength = length &- (PacketMemory.tunnelPacketOffset &- PacketMemory.virtioHeaderOffset)
        counters.add(.tunnelReads)
        counters.add(.tunnelBytes, max(packetLength, 0))
        if isCapturing { capture(.tunnelRead, bytes, length: packetLength) }
        defer { if outboundTimer.timesWait(of: buffer) { noteForwarded(buffer) } }
        if let flaw = IPPacket.flaw(bytes, length: packetLength, verifyingChecksum: false) {
            return drop(buffer, counter(of: flaw), length: packetLength)
        }
        #if TWILL_EXTRA_COPY
            extraCopy.copyMemory(from: bytes, byteCount: packetLength)
        #endif
        let packet = IPPacket(bytes, length: packetLength)
        if isMarked {
            guard packet.markCongestion() else {
                return drop(buffer, .dropOutboundStandingQueue, length: packetLength)
            }
            counters.add(.congestionMarks)
        }
        let peer =
            packet.isIPv4
            ? snapshot.peer(holding: packet.destinationIPv4) : snapshot.peer(holding: packet.destinationIPv6)
        guard let peer else {
            if packet.isForTheLink { return drop(buffer, .outboundIgnored, length: packetLength) }
            answer(packet, .noRoute)
            return drop(buffer, .dropOutboundNoRoute, length: packetLength)
        }
        guard packet.decrementTimeToLive() else {
            answer(packet, .timeExceeded)
            return drop(buffer, .dropOutboundTimeToLive, length: packetLength)
        }
        let header = (start + PacketMemory.virtioHeaderOffset).loadUnaligned(as: virtio_net_hdr.self)
        switch OffloadedPacket.examine(header: header, packet: bytes, length: packetLength) {
        case .whole: append(packet, in: buffer, to: peer, isPrioritized: isPrioritized)
        case .superPacket(let plan): segment(plan, bytes, in: buffer, to: peer)
        case .refused(let refusal): drop(buffer, counter(of: refusal), length: packetLength)
        }
    }

    /// Counts a packet, or super-packet, that goes nowhere, keeps its head, and gives its buffer back.
    @inline(never)
    private mutating func drop(_ buffer: Int, _ reason: Counter, length: Int) {
        noteDrop(
            reason, .droppedOutbound, memory.tunnelBuffer(buffer) + PacketMemory.tunnelPacketOffset,
            length: length)
        messages.giveBackBuffer(buffer)
        if outboundTimer.timesWait(of: buffer) { outboundTimer.giveUp() }
    }

    /// Times the packet in a buffer on its way out from here, or, where it was dropped, another one.
    @inline(never)
    private mutating func noteForwarded(_ buffer: Int) {
        guard let message = messages.lastMessage(of: buffer) else { return outboundTimer.giveUp() }
        outboundTimer.noteForwarded(
            as: message, atNanoseconds: engine.nowNanoseconds, .outboundWaitTime, counters)
    }

    /// Joins a packet to the open message of its peer, or opens one.
    @inline(__always)
    private mutating func append(
        _ packet: IPPacket, in buffer: Int, to peer: ForwardingSnapshot.PeerIndex, isPrioritized: Bool
    ) {
        if let message = messages.openMessage(to: peer) {
            let entry = messages.entries[message]
            // What is prioritized does not become the shorter tail of a message that queued packets left open: the
            // receiver could not prioritize it there.
            if packet.length == entry.segmentBytes || (packet.length < entry.segmentBytes && !isPrioritized),
                entry.byteCount &+ packet.length <= SuperPacketLimits.sendBytes
            {
                messages.append(packet.bytes, length: packet.length, in: buffer, to: message)
                // Only the last segment may be shorter.
                if packet.length < entry.segmentBytes || isFull(message) { messages.seal(message) }
                return
            }
            messages.seal(message)
        }
        guard let message = messages.take(to: peer, of: snapshot) else {
            return drop(buffer, .dropOutboundNoBuffer, length: packet.length)
        }
        messages.append(packet.bytes, length: packet.length, in: buffer, to: message)
        if segmentLimit > 1 { messages.markOpen(message) } else { messages.sealFilled(message) }
    }

    /// Joins the segments of a super-packet to the open message of its peer where they continue it (packets of the
    /// same size, most often of the super-packet before), and opens as many more as they need. So sends are full
    /// wherever super-packets end: 44 segments of a full-sized one, and its last two with the next one's first 42.
    @inline(__always)
    private mutating func segment(
        _ plan: SegmentPlan, _ packet: UnsafeMutableRawPointer, in buffer: Int,
        to peer: ForwardingSnapshot.PeerIndex
    ) {
        work.superPackets &+= 1
        work.segments &+= plan.segmentCount
        counters.add(.superPacketsRead)
        counters.add(.segmentsSent, plan.segmentCount)
        let segmentBytes = plan.headerBytes &+ plan.segmentPayloadBytes
        let lastIsShort = plan.lastPayloadBytes < plan.segmentPayloadBytes
        var next = 0
        while next < plan.segmentCount {
            var message = messages.openMessage(to: peer) ?? -1
            if message >= 0, messages.entries[message].segmentBytes != segmentBytes {
                messages.seal(message)
                message = -1
            }
            if message < 0 {
                guard let new = messages.take(to: peer, of: snapshot) else {
                    noteDrop(
                        .dropOutboundNoBuffer, .droppedOutbound, count: plan.segmentCount &- next, packet,
                        length: segmentBytes)
                    if next == 0 { messages.giveBackBuffer(buffer) }
                    return
                }
                message = new
                messages.markOpen(message)
            }
            let entry = messages.entries[message]
            let room = min(
                segmentLimit &- entry.segmentCount,
                (SuperPacketLimits.sendBytes &- entry.byteCount) / segmentBytes)
            let end = min(next &+ room, plan.segmentCount)
            messages.append(next..<end, of: plan, packet: packet, in: buffer, to: message)
            next = end
            if isFull(message) || (next == plan.segmentCount && lastIsShort) { messages.seal(message) }
        }
    }

    /// Whether a message has no room for one more segment of its size, in segments or in bytes. An open one always
    /// has.
    @inline(__always)
    private func isFull(_ message: Int) -> Bool {
        let entry = messages.entries[message]
        return entry.segmentCount == segmentLimit
            || entry.byteCount &+ entry.segmentBytes > SuperPacketLimits.sendBytes
    }

    /// Queues all sealed messages; where the engine has no room (the kernel took less than it was given), in a later
    /// round.
    @inline(__always)
    mutating func queueSends() {
        guard engine.queueSpace >= messages.sealedCount else { return }
        var place = 0
        while place < messages.sealedCount {
            let message = Int(messages.sealed[place])
            messages.noteSend(message)
            if isCapturing { captureSent(message) }
            engine.send(message)
            counters.add(.sends)
            counters.record(.sendBatch, messages.entries[message].segmentCount)
            place &+= 1
        }
        queuedInline &+= messages.sealedCount
        messages.clearSealed()
    }

    /// Takes the end of a send.
    @inline(__always)
    mutating func sendEnded(_ message: Int, result: Int) {
        messages.noteSendEnded(message)
        let entry = messages.entries[message]
        if outboundTimer.timesWay(of: message) { noteSent(result: result) }
        if result >= 0 {
            counters.add(.packetsSent, entry.segmentCount)
            counters.add(.bytesSent, entry.byteCount)
            peerCounters.addSent(
                entry.counterSlot, packets: entry.segmentCount, bytes: entry.byteCount)
        } else if !entry.wasResent, mayBeAboutAnother(result) {
            messages.sealAgain(message)
            counters.add(.resentAfterErrors)
            return
        } else if entry.segmentCount > 1, segmentationFailed(result) {
            messages.entries[message].refusalIsEvidence = result != -Int(EMSGSIZE)
            messages.keepForReplays(message)
            return replay(message)
        } else {
            sendFailed(message, result: result)
        }
        if entry.retryOf >= 0 { replayEnded(of: entry.retryOf, succeeded: result >= 0) }
        messages.release(message)
    }

    private mutating func sendFailed(_ message: Int, result: Int) {
        let reason: Counter =
            switch Int32(truncatingIfNeeded: -result) {
            case EAGAIN, ENOBUFS, ENOMEM: .dropOutboundUnderlayFull
            case EMSGSIZE: .dropOutboundTooLarge
            case EHOSTUNREACH, ENETUNREACH, ENETDOWN, EHOSTDOWN: .dropOutboundUnreachable
            default: .dropOutboundError
            }
        noteDrop(reason, ofMessage: message, count: messages.entries[message].segmentCount)
    }

    /// Times what was sent; what was not is not timed.
    @inline(never)
    private mutating func noteSent(result: Int) {
        guard result >= 0 else { return outboundTimer.giveUp() }
        outboundTimer.noteArrived(atNanoseconds: engine.nowNanoseconds, .outboundSendTime, counters)
    }

    /// Whether an error may be about another packet: an ICMP message about one, which anybody can forge, leaves its
    /// error on a connected socket (`__udp4_lib_err`, net/ipv4/udp.c), and the next send reports it instead of doing
    /// anything (`sock_alloc_send_pskb`, net/core/sock.c). It is gone then, so the same message is sent once more.
    @inline(__always)
    private func mayBeAboutAnother(_ result: Int) -> Bool {
        switch Int32(truncatingIfNeeded: -result) {
        case EAGAIN, ENOBUFS, ENOMEM, ECANCELED: false
        default: true
        }
    }

    // MARK: Segmentation that a path does not take

    /// Whether an error can mean that the path's device takes no segmentation (EIO: no checksum offload, up to 6.10;
    /// EINVAL: short tails in some releases; EINVAL or, since 6.14, EMSGSIZE: segment larger than the path's MTU).
    /// EMSGSIZE is what an ICMP message can cause, so it is never evidence against segmentation; no such message
    /// causes EIO or EINVAL (`icmp_err_convert`, net/ipv4/icmp.c).
    private func segmentationFailed(_ result: Int) -> Bool {
        result == -Int(EIO) || result == -Int(EINVAL) || result == -Int(EMSGSIZE)
    }

    /// Sends the segments of a failed message again, one by one; the message keeps its memory until all have ended.
    private mutating func replay(_ failed: Int) {
        while messages.entries[failed].nextReplay < messages.entries[failed].segmentCount {
            guard let message = messages.take(toPeerOf: failed) else { break }
            messages.fill(message, replaying: messages.entries[failed].nextReplay, of: failed)
            messages.entries[failed].nextReplay &+= 1
            messages.sealFilled(message)
            counters.add(.replayedSegments)
        }
        if messages.entries[failed].replaysPending == 0 {
            // Not even one message is free: the rest is lost, and counted.
            let rest = messages.entries[failed].segmentCount &- messages.entries[failed].nextReplay
            noteDrop(.dropOutboundNoBuffer, ofMessage: failed, count: rest)
            messages.endReplays(of: failed)
        }
    }

    private mutating func replayEnded(of failed: Int, succeeded: Bool) {
        messages.entries[failed].replaysPending &-= 1
        if !succeeded { messages.entries[failed].refusalIsEvidence = false }
        guard messages.entries[failed].replaysPending == 0 else { return }
        if messages.entries[failed].nextReplay < messages.entries[failed].segmentCount {
            return replay(failed)
        }
        if messages.entries[failed].refusalIsEvidence, segmentLimit > 1 {
            // All of the same bytes pass one by one: it is segmentation that this path does not take.
            failedSegmentations &+= messages.entries[failed].segmentCount
            if failedSegmentations >= WorkerLimits.failedSegmentsBeforeFallback { giveUpSegmentation() }
        }
        messages.endReplays(of: failed)
    }

    private mutating func giveUpSegmentation() {
        segmentLimit = 1
        failedSegmentations = 0
        counters.add(.segmentationFallbacks)
        segmentationRest.begin(atNanoseconds: workBeganNanoseconds)
    }

    /// Tries segmentation again, once it has rested.
    @inline(__always)
    mutating func resumeSegmentation() {
        guard segmentationRest.isOver(atNanoseconds: workBeganNanoseconds) else { return }
        segmentLimit = settings.segmentLimit
    }

    // MARK: Errors

    /// Writes an ICMP error about a packet of this node's pods into the TUN device, where rules and rate limit allow it.
    mutating func answer(_ packet: IPPacket, _ error: ICMPError) {
        guard ICMPError.mayAnswer(packet), settings.hasAddress(isIPv4: packet.isIPv4), engine.queueSpace > 0,
            replies.admit(atNanoseconds: workBeganNanoseconds), let slot = replies.take()
        else { return counters.add(.errorsSuppressed) }
        let length: Int
        if packet.isIPv4 {
            length = error.write(
                about: packet, from: settings.tunnelAddress.unsafelyUnwrapped, to: replies.message(slot))
        } else {
            length = error.write(
                about: packet, from: settings.tunnelAddressIPv6.unsafelyUnwrapped, to: replies.message(slot))
        }
        replies.setLength(length, of: slot)
        count(error)
        engine.write(limits.writeSlots &+ slot, replies.vectors + slot, count: 1)
        queuedInline &+= 1
    }

    /// Sends an ICMP error about a packet that came from a peer back to the peer that its source belongs to, else to
    /// the sender. The port is the lease's: nobody listens on the one that a peer's second worker sent from.
    mutating func answerPeer(
        _ packet: IPPacket, from sender: ForwardingSnapshot.PeerIndex, _ error: ICMPError
    ) {
        let holder =
            packet.isIPv4
            ? snapshot.peer(holding: packet.sourceIPv4) : snapshot.peer(holding: packet.sourceIPv6)
        guard ICMPError.mayAnswer(packet), settings.hasAddress(isIPv4: packet.isIPv4),
            replies.admit(atNanoseconds: workBeganNanoseconds),
            let message = messages.take(to: holder ?? sender, of: snapshot)
        else { return counters.add(.errorsSuppressed) }
        let length: Int
        if packet.isIPv4 {
            length = error.write(
                about: packet, from: settings.tunnelAddress.unsafelyUnwrapped, to: messages.arena(message))
        } else {
            length = error.write(
                about: packet, from: settings.tunnelAddressIPv6.unsafelyUnwrapped, to: messages.arena(message)
            )
        }
        messages.fillFromArena(message, length: length)
        messages.sealFilled(message)
        count(error)
    }

    private func count(_ error: ICMPError) {
        switch error {
        case .noRoute: counters.add(.unreachablesSent)
        case .timeExceeded: counters.add(.timeExceededsSent)
        }
    }
}
