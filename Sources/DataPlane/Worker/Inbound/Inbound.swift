// The way of a datagram from the underlay to the TUN device, in the order of the steps:
//
//   received buffer → queued, or prioritized → known peer? → for each datagram in it: whole IP packet? not too large?
//        for this node? from where that peer's packets come? → TTL decremented → coalesced → written → buffer free
//
// What a receive brought is worked off in order of arrival, but for what is prioritized (WaitingFlows.swift). It
// waits for the next round where the writes of the last have not ended, the coalescer has no room, or the round has
// done its part.

import Addresses
import CLinux
import Counters
import Engines
import Forwarding
import Glibc
import PacketHeaders
import Offload

extension Worker where Engine: ~Copyable {
    /// Takes the end of a receive.
    @inline(__always)
    mutating func receiveEnded(_ buffer: Int, result: Int) {
        received.noteReceive(into: buffer)
        work.receives &+= 1
        guard result >= PacketMemory.datagramPayloadOffset else { return provide(buffer) }
        counters.add(.receives)
        inboundTimer.noteFilled(buffer, atNanoseconds: workBeganNanoseconds)
        let datagrams = ReceivedDatagrams(memory.datagramBuffer(buffer))
        let count = datagrams.count
        // One without bytes is one all the same.
        inboundPassage.take(max(count, 1))
        if received.waitingCount > 0, count > 0, datagrams.length < WorkerLimits.bulkBytes,
            writesPending == 0, coalescer.slotCount &+ count <= limits.writeSlots,
            arrivalFlows.mayBePrioritized(datagrams, atNanoseconds: workBeganNanoseconds)
        {
            counters.add(.inboundPassed, count)
            notePrioritized(datagrams.payload, length: min(datagrams.segmentBytes, datagrams.length))
            return workOff(buffer, datagrams, count: count)
        }
        arrivalFlows.add(datagrams, atNanoseconds: workBeganNanoseconds)
        received.append(buffer)
    }

    /// Works off the received buffers that the coalescer has room for, a batch at most: the rest waits for the next
    /// round, which first takes in what has come meanwhile.
    @inline(__always)
    mutating func workOffArrivals() {
        guard writesPending == 0 else { return }
        var bytesLeft = superPacketBatch &* SuperPacketLimits.sendBytes
        while received.waitingCount > 0, bytesLeft > 0 {
            let buffer = received.first
            let datagrams = ReceivedDatagrams(memory.datagramBuffer(buffer))
            let count = datagrams.count
            guard
                coalescer.slotCount &+ count <= limits.writeSlots
                    || count > WorkerLimits.receivedSegments
            else { return }
            received.removeFirst()
            bytesLeft &-= datagrams.length
            arrivalFlows.remove(datagrams)
            workOff(buffer, datagrams, count: count)
        }
    }

    @inline(__always)
    private mutating func workOff(_ buffer: Int, _ datagrams: ReceivedDatagrams, count: Int) {
        counters.record(.receiveBatch, count)
        work.datagrams &+= count
        if datagrams.segmentBytes <= WorkerLimits.smallDatagramBytes { work.smallDatagrams &+= count }
        let isHeld = deliver(datagrams, count: count)
        if inboundTimer.timesWait(of: buffer) { noteWorkedOff(buffer, isHeld: isHeld) }
        if isHeld { received.hold(buffer) } else { provide(buffer) }
    }

    /// Times the datagrams in a buffer on their way to the TUN device from here; where none goes there, others.
    @inline(never)
    private mutating func noteWorkedOff(_ buffer: Int, isHeld: Bool) {
        guard isHeld else { return inboundTimer.giveUp() }
        inboundTimer.noteForwarded(
            as: buffer, atNanoseconds: engine.nowNanoseconds, .inboundWaitTime, counters)
    }

    /// Counts datagrams of a buffer that are lost, and keeps the first of them.
    @inline(never)
    private mutating func drop(
        _ reason: Counter, _ datagrams: ReceivedDatagrams, count: Int = 1, at offset: Int = 0, length: Int
    ) {
        noteDrop(
            reason, .droppedInbound, count: count, datagrams.payload + offset, length: length,
            name: datagrams.payload - (PacketMemory.datagramPayloadOffset &- PacketMemory.nameOffset))
    }

    /// Takes the hello that a datagram is which is no packet, or drops it.
    @inline(never)
    private mutating func turnAway(
        _ reason: Counter, _ datagrams: ReceivedDatagrams, at offset: Int, length: Int
    ) {
        let isHello =
            reason == .dropInboundTooShort
            && takeHello(datagrams.payload + offset, length: length, sender: datagrams.sender)
        if isHello {
            counters.add(.hellosReceived)
        } else {
            drop(reason, datagrams, at: offset, length: length)
        }
    }

    /// Checks the datagrams of a buffer and gives them to the coalescer. Returns whether any of them went there.
    @inline(__always)
    private mutating func deliver(_ datagrams: ReceivedDatagrams, count: Int) -> Bool {
        counters.add(.datagramsReceived, max(count, 1))
        counters.add(.bytesReceived, datagrams.length)
        guard let outerSource = datagrams.source, let peer = snapshot.peer(at: outerSource) else {
            drop(
                .dropInboundUnknownPeer, datagrams, count: max(count, 1),
                length: min(datagrams.segmentBytes, datagrams.length))
            return false
        }
        guard !datagrams.isTruncated, count <= WorkerLimits.receivedSegments else {
            drop(
                .dropInboundTruncated, datagrams, count: max(count, 1),
                length: min(datagrams.segmentBytes, datagrams.length))
            return false
        }
        guard count > 0 else {
            drop(.dropInboundTooShort, datagrams, length: 0)
            return false
        }
        var offset = 0
        var delivered = false
        var admitted = Admission(holder: peer)
        // Datagrams in a row from one peer are counted together; where several peers share the address, the inner
        // source tells which it is.
        var sender = peer
        var packets = 0
        var bytesOfSender = 0
        while offset < datagrams.length {
            let length = min(datagrams.segmentBytes, datagrams.length &- offset)
            let bytes = datagrams.payload + offset
            if isCapturing {
                capture(
                    .underlayReceived, bytes, length: length,
                    name: datagrams.payload - (PacketMemory.datagramPayloadOffset &- PacketMemory.nameOffset))
            }
            offset &+= length
            if let reason = refusal(bytes, length: length, from: outerSource, peer: peer, admitted: &admitted)
            {
                turnAway(reason, datagrams, at: offset &- length, length: length)
                continue
            }
            if admitted.holder != sender {
                countReceived(from: sender, packets: packets, bytes: bytesOfSender)
                sender = admitted.holder
                packets = 0
                bytesOfSender = 0
            }
            packets &+= 1
            bytesOfSender &+= length
            let packet = IPPacket(bytes, length: length)
            guard packet.decrementTimeToLive() else {
                drop(.dropInboundTimeToLive, datagrams, at: offset &- length, length: length)
                answerPeer(packet, from: sender, .timeExceeded)
                continue
            }
            // The kernel merges no datagrams without a checksum of their own, as a kernel path sends them.
            if count == 1, UnfinishedChecksum.complete(bytes, length: length) {
                counters.add(.kernelPathStrays)
            }
            let addition = coalescer.add(bytes, length: length)
            // `workOffArrivals` made sure of a slot for each.
            assert(addition != .full)
            counters.add(.packetsDelivered)
            counters.add(.bytesDelivered, length)
            delivered = true
        }
        countReceived(from: sender, packets: packets, bytes: bytesOfSender)
        return delivered
    }

    @inline(__always)
    private mutating func countReceived(from peer: Int, packets: Int, bytes: Int) {
        guard packets > 0 else { return }
        peerCounters.addReceived(
            snapshot.counterSlot(peer), packets: packets, bytes: bytes, atNanoseconds: workBeganNanoseconds)
    }

    /// Why a datagram is not let in, or nil; then `admitted.holder` is the peer whose inner source it has, or `peer`
    /// where no one's. Mutating, although it changes nothing: a worker that is borrowed from a mutating caller is
    /// copied whole, 768 bytes for each datagram.
    @inline(__always)
    private mutating func refusal(
        _ bytes: UnsafeMutableRawPointer, length: Int, from outerSource: IPAddress, peer: Int,
        admitted: inout Admission
    ) -> Counter? {
        switch IPPacket.flaw(bytes, length: length, verifyingChecksum: true) {
        case .tooShort: return .dropInboundTooShort
        case .version: return .dropInboundVersion
        case .headerLength: return .dropInboundHeaderLength
        case .totalLength: return .dropInboundTotalLength
        case .headerChecksum: return .dropInboundHeaderChecksum
        case nil: break
        }
        guard length <= snapshot.mtu else { return .dropInboundTooLarge }
        let packet = IPPacket(bytes, length: length)
        if packet.isIPv4 {
            let addresses = bytes.field64(12)
            guard !admitted.isKnown || addresses != admitted.addresses else { return nil }
            guard snapshot.isLocal(packet.destinationIPv4) else { return .dropInboundDestination }
            let source = packet.sourceIPv4
            // Several peers may share an outer address, so it is the inner source that names the peer.
            if !settings.acceptsAnySource, let holder = snapshot.peer(holding: source),
                snapshot.isAtAddress(of: peer, holder)
            {
                admitted = Admission(isKnown: true, addresses: addresses, holder: holder)
                return nil
            }
            guard settings.acceptsAnySource ? packet.comesFromAHost : outerSource.equals(source) else {
                return .dropInboundSource
            }
            admitted = Admission(isKnown: true, addresses: addresses, holder: peer)
            return nil
        }
        admitted = Admission(holder: peer)
        guard snapshot.isLocal(packet.destinationIPv6) else { return .dropInboundDestination }
        guard !settings.acceptsAnySource else { return packet.comesFromAHost ? nil : .dropInboundSource }
        if let holder = snapshot.peer(holding: packet.sourceIPv6), snapshot.isAtAddress(of: peer, holder) {
            admitted.holder = holder
            return nil
        }
        return .dropInboundSource
    }

    /// Closes the coalescer's slots and queues their writes.
    @inline(__always)
    mutating func queueWrites() {
        guard writesPending == 0, coalescer.slotCount > 0, engine.queueSpace >= coalescer.slotCount else {
            return
        }
        coalescer.close()
        let count = coalescer.slotCount
        var index = 0
        while index < count {
            let slot = coalescer.slot(index)
            writeOwners.pass(index, from: .worker, to: .writing)
            if isCapturing { captureWritten(slot) }
            engine.write(index, slot.vectors, count: slot.vectorCount)
            counters.record(.writeBatch, slot.packetCount)
            if slot.packetCount > 1 {
                counters.add(.superPacketsWritten)
                counters.add(.segmentsCoalesced, slot.packetCount)
            }
            index &+= 1
        }
        counters.add(.tunnelWrites, count)
        writesPending = count
        queuedInline &+= count
    }

    /// Takes the end of a write.
    @inline(__always)
    mutating func writeEnded(_ index: Int, result: Int) {
        guard index < limits.writeSlots else {
            return replies.release(index &- limits.writeSlots)
        }
        writeOwners.pass(index, from: .writing, to: .worker)
        if result < 0 || separationsUnderWay > 0, goOnSeparating(index, result: result) { return }
        writesPending &-= 1
        guard writesPending == 0 else { return }
        coalescer.reset()
        while let buffer = received.takeHeld() { provide(buffer) }
    }

    // MARK: Super-packets that the kernel does not take

    /// Counts a write that failed; where it was refused for being merged, or is one of such a one's packets, queues
    /// the write of the next packet. Returns whether it did.
    ///
    /// Packets of the flow that are in later slots have passed these by then: the price of losing none.
    private mutating func goOnSeparating(_ index: Int, result: Int) -> Bool {
        let merged = coalescer.merged(index)
        let isSeparated = merged == nil && coalescer.isSeparated(index)
        if result == -Int(EINVAL), let merged {
            separationsUnderWay &+= 1
            noteRefusal(of: merged)
        } else {
            if result < 0 {
                writeFailed(isSeparated ? 1 : coalescer.slot(index).packetCount, index, result: result)
            }
            guard isSeparated else { return false }
        }
        let left = coalescer.packetsToSeparate(index)
        if left > 0, engine.queueSpace > 0, let write = coalescer.separate(index) {
            writeOwners.pass(index, from: .worker, to: .writing)
            engine.write(index, write.vectors, count: write.vectorCount)
            counters.add(.tunnelWrites)
            counters.add(.rewrittenPackets)
            queuedInline &+= 1
            return true
        }
        if left > 0 { noteDrop(.dropInboundTunnelFull, count: left, ofSlot: index) }
        separationsUnderWay &-= 1
        return false
    }

    /// Merges for a while no more what was refused too often: a kernel's fault, and not a packet's.
    private mutating func noteRefusal(of merged: MergedWrite) {
        switch merged {
        case .shortTail:
            refusedShortTails &+= 1
            guard refusedShortTails % WorkerLimits.refusedWritesBeforeFallback == 0 else { return }
            counters.add(.shortTailFallbacks)
        case .even:
            refusedEvenWrites &+= 1
            guard refusedEvenWrites % WorkerLimits.refusedWritesBeforeFallback == 0 else { return }
            counters.add(.mergedWriteFallbacks)
        }
        coalescer.stopMerging(merged)
        mergingRest.begin(atNanoseconds: workBeganNanoseconds)
    }

    /// Merges again, once what was refused has rested.
    @inline(__always)
    mutating func resumeMerging() {
        guard mergingRest.isOver(atNanoseconds: workBeganNanoseconds) else { return }
        coalescer.resumeMerging()
    }

    private mutating func writeFailed(_ packets: Int, _ index: Int, result: Int) {
        let reason: Counter =
            switch Int32(truncatingIfNeeded: -result) {
            case EIO, ENETDOWN, EBADFD: .dropInboundTunnelDown
            case EAGAIN, ENOBUFS, ENOMEM: .dropInboundTunnelFull
            default: .dropInboundError
            }
        noteDrop(reason, count: packets, ofSlot: index)
    }

    private mutating func noteDrop(_ reason: Counter, count: Int, ofSlot index: Int) {
        let slot = coalescer.slot(index)
        noteDrop(
            reason, .droppedInbound, count: count, from: slot.vectors + 1,
            length: slot.byteCount &- virtio_net_hdr.byteCount)
    }

    /// Copies a packet or super-packet that is about to be written for a capture.
    @inline(never)
    private mutating func captureWritten(_ slot: CoalescedPacket) {
        records.copies.copy(
            .tunnelWritten, from: slot.vectors + 1, length: slot.byteCount &- virtio_net_hdr.byteCount,
            name: nil,
            atNanoseconds: workBeganNanoseconds)
    }
}

/// What was let in last from a bundle of datagrams: those after it with the same addresses are let in as well.
private struct Admission {
    /// Whether something was, and it was IPv4. No value of `addresses` can say so: a packet may have any.
    var isKnown = false
    /// Inner source and destination, IPv4, as they lie in the header.
    var addresses: UInt64 = 0
    /// The peer whose subnet holds the source.
    var holder: Int
}
