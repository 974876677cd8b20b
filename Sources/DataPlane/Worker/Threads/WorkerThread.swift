// How it works. What stands between a thread's start and its worker's loop: its name, its CPU, its memory, its engine, and
// then the channels, once it is told that they are there. From then on it looks at its order once a round; where that says
// so, it takes nothing in any more (Loop/Ceasing.swift), and rests until the next order.

import CLinux
import Counters
import Devices
import Engines
import Glibc
import Offload

extension DataPlane {
    /// What a worker's thread does, from its start to its end.
    ///
    /// - Parameter packetsWait: as in `prepare`.
    func run(_ index: Int, packetsWait: Bool) {
        let tuning = configuration.tuning
        // What `top -H` and perf show; it would inherit the name of the thread that starts it.
        twill_name_thread("worker \(index)")
        timeSlices.enter(index)
        defer { timeSlices.leave(index) }
        if let cpu = tuning.cpu(ofWorker: index) {
            let result = twill_pin_thread(Int32(clamping: cpu))
            guard result == 0 else {
                return states.noteRefusal(
                    .resource(
                        "pin worker \(index) to CPU \(cpu) (--cpus; this process may use \(usableCPUs()))",
                        errorNumber: result), of: index)
            }
        }
        let isTouched = !packetsWait || tuning.cpu(ofWorker: index) != nil
        guard
            let memory = PacketMemory(limits, hugePages: tuning.usesHugePages, isTouched: isTouched)
        else {
            return states.noteRefusal(
                .resource("allocate packet buffers", errorNumber: ENOMEM), of: index)
        }
        if !isTouched { untouchedMemory.note([memory.pages], of: index) }
        defer {
            untouchedMemory.forget(index)
            memory.deallocate()
        }
        switch engine {
        case .mmsg:
            do throws(MmsgError) {
                let engine = try MmsgEngine(
                    memory: memory, wake: wakes[index], entries: limits.ringEntries)
                serve(engine, memory, isTouched: isTouched, index)
            } catch {
                states.noteRefusal(.engine(error.description, errorNumber: error.errorNumber), of: index)
            }
        case .uring, .automatic:
            do throws(UringError) {
                let engine = try UringEngine(
                    memory: memory, wake: wakes[index], entries: limits.ringEntries,
                    usesSubmissionPolling: tuning.usesSubmissionPolling)
                if !engine.usesRegisteredBuffers { blocks[index].add(.lockedMemoryFallbacks) }
                serve(engine, memory, isTouched: isTouched, index)
            } catch {
                let advice = "; or give --engine=auto, which goes on with plain system calls"
                states.noteRefusal(
                    .engine(error.description + advice, errorNumber: error.errorNumber), of: index)
            }
        }
    }

    /// Makes a worker, waits for the channels, takes them, and forwards on them.
    private func serve<Engine: PacketEngine & ~Copyable>(
        _ engine: consuming Engine, _ memory: PacketMemory, isTouched: Bool, _ index: Int
    ) {
        // With all its memory, before anything is asked to stand still for it.
        var worker = Worker(
            engine: engine, memory: memory, limits: limits, settings: settings(channels: nil, index),
            counters: blocks[index], peerCounters: peerBlocks[index], records: records[index],
            reader: publication.reader(index), hellos: hellos.inboxes[index],
            kernelPathTraffic: kernelPathMemory?.traffic, index: index)
        if isTouched {
            for pages in worker.pagesGivenLater { pages.touch() }
        } else {
            untouchedMemory.note(worker.pagesGivenLater, of: index)
        }
        defer { untouchedMemory.forget(index) }
        states.note(.prepared, of: index)
        guard orders.next(after: .prepare, of: index) != .end, let channels = channels else {
            worker.close()
            return states.note(.ended, of: index)
        }
        let sockets = channels.sockets
        let attached = worker.attach(
            EngineChannels(
                tunnel: channels.tunnel.queues[index].descriptor, socket: sockets.receivers[index].descriptor,
                sender: sockets.senders[index], formerSocket: sockets.formerReceiver(ofWorker: index)),
            settings(channels: channels, index))
        guard attached == 0 else {
            worker.close()
            return states.noteRefusal(
                .engine("worker \(index) can't take the sockets", errorNumber: -attached), of: index)
        }
        if index == 0 { countStartFallbacks(channels) }
        states.note(.attached, of: index)
        guard orders.next(after: .attach, of: index) != .end else {
            worker.close()
            return states.note(.ended, of: index)
        }
        loop(
            &worker, [sockets.receivers[index].descriptor, sockets.formerReceiver(ofWorker: index)], index)
    }

    /// What a worker is told; without channels, as long as it has none, nothing is cut or merged.
    private func settings(channels: WorkerChannels?, _ index: Int) -> WorkerSettings {
        let offloads = channels?.sockets.receivers[index].offloads
        return WorkerSettings(
            tunnelAddress: configuration.tunnelAddress,
            tunnelAddressIPv6: configuration.tunnelAddressIPv6,
            acceptsAnySource: configuration.acceptsAnySource,
            segmentLimit: offloads.map { $0.segmentation ? $0.segmentLimit : 1 } ?? 1,
            coalesces: channels.map { DataPlane.mergedKinds($0.tunnel) } ?? [],
            busyPollMicroseconds: configuration.tuning.busyPollMicroseconds,
            minimumWaitMicroseconds: configuration.tuning.minimumWaitMicroseconds)
    }

    /// Counts what was asked for and refused; on the first worker's thread, whose counters tell.
    private func countStartFallbacks(_ channels: WorkerChannels) {
        let tuning = configuration.tuning
        let refused = tuning.tunnelOffloads.subtracting(channels.tunnel.offloads)
        let offloads = channels.sockets.receivers[0].offloads
        let fallbacks: [(Counter, Bool)] = [
            (.receiveCoalescingFallbacks, tuning.usesCoalescing && !offloads.coalescing),
            (.segmentationFallbacks, tuning.usesSegmentation && !offloads.segmentation),
            (.tunnelStreamFallbacks, !refused.isDisjoint(with: [.tcp4, .tcp6, .tcpECN])),
            (.tunnelDatagramFallbacks, !refused.isDisjoint(with: .udp)),
            (.datagramSteeringFallbacks, !steersDatagrams), (.packetSteeringFallbacks, !steersPackets),
            (.sendingSocketFallbacks, channels.sockets.sendsOnItsReceiver),
        ]
        for (counter, isTaken) in fallbacks where isTaken { blocks[0].add(counter) }
    }

    /// What the TUN device may be given merged: what it would also give.
    private static func mergedKinds(_ tunnel: TunnelDevice) -> MergedKinds {
        var kinds: MergedKinds = []
        if tunnel.offloads.contains(.tcp4) { kinds.insert(.tcpOverIPv4) }
        if tunnel.offloads.contains(.tcp6) { kinds.insert(.tcpOverIPv6) }
        if tunnel.offloads.contains(.udp) { kinds.insert(.udp) }
        return kinds
    }

    private func loop<Engine: PacketEngine & ~Copyable>(
        _ worker: inout Worker<Engine>, _ sockets: [Int32], _ index: Int
    ) {
        states.note(.running, of: index)
        var result: Int32 = 0
        var catchingUp = CatchingUp()
        while result == 0 {
            let order = orders[index]
            if order == .end { break }
            if order == .cease || order == .empty {
                result = rest(&worker, order, sockets, index)
                orders.askToCatchUp(index)
                continue
            }
            result = worker.round()
            guard orders.isBehind(index) else { continue }
            catchingUp.begin(orders.catchingUpAsked(of: index))
            catchingUp.note(
                tunnelIsEmpty: worker.foundTunnelEmpty, socketsAreEmpty: { WorkerThread.areEmpty(sockets) })
            if catchingUp.hasSeenBothEmpty, worker.isThrough {
                worker.beginPassages()
                orders.noteCaughtUp(catchingUp.asked, of: index)
            }
        }
        worker.close()
        if result != 0 { states.noteFailure(-result, of: index) } else { states.note(.ended, of: index) }
    }

    /// Takes nothing in any more, works off what the worker holds, and waits for the next order.
    ///
    /// - Returns: 0, or what a round returned.
    private func rest<Engine: PacketEngine & ~Copyable>(
        _ worker: inout Worker<Engine>, _ order: WorkerOrder, _ sockets: [Int32], _ index: Int
    ) -> Int32 {
        var rounds = 0
        if order == .empty {
            worker.beginEmptying()
            var emptied = CatchingUp()
            repeat {
                let result = worker.round()
                guard result == 0 else { return result }
                rounds += 1
                emptied.note(
                    tunnelIsEmpty: worker.foundTunnelEmpty,
                    socketsAreEmpty: { WorkerThread.areEmpty(sockets) })
            } while orders[index] == order && rounds < DataPlane.emptyingRounds
                && !emptied.hasSeenBothEmpty
        }
        while orders[index] == order, !worker.holdsNothing {
            // Anew each time: what was just bringing a packet can't be cancelled in that moment.
            worker.cease()
            let result = worker.round()
            guard result == 0 else { return result }
        }
        if orders[index] == order {
            states.note(.parked, of: index)
            guard orders.next(after: order, of: index) != .end else { return 0 }
        }
        worker.resume()
        states.note(.running, of: index)
        return 0
    }

    /// Rounds in which a worker that empties its queue finds it empty at least once: each takes up to 64 packets, and the
    /// queue holds some thousands.
    private static let emptyingRounds = 4000
}

/// Whether a worker has found its queue and its sockets empty since it was asked to, each at some time.
private struct CatchingUp {
    /// What it was asked for, as a number that grows.
    private(set) var asked: UInt64 = 0
    private var tunnelWasEmpty = false
    private var socketsWereEmpty = false

    var hasSeenBothEmpty: Bool { tunnelWasEmpty && socketsWereEmpty }

    /// Begins anew where it is asked anew.
    mutating func begin(_ number: UInt64) {
        guard number != asked else { return }
        self = CatchingUp()
        asked = number
    }

    mutating func note(tunnelIsEmpty: Bool, socketsAreEmpty: () -> Bool) {
        tunnelWasEmpty = tunnelWasEmpty || tunnelIsEmpty
        socketsWereEmpty = socketsWereEmpty || socketsAreEmpty()
    }
}

/// What a worker's thread is given.
final class WorkerThread: Sendable {
    /// Whether nothing waits at any of the sockets that are there.
    static func areEmpty(_ sockets: [Int32]) -> Bool {
        sockets.allSatisfy { $0 < 0 || twill_readable_bytes($0) == 0 }
    }

    let dataPlane: DataPlane
    let index: Int
    let packetsWait: Bool

    init(dataPlane: DataPlane, index: Int, packetsWait: Bool) {
        self.dataPlane = dataPlane
        self.index = index
        self.packetsWait = packetsWait
    }
}

/// The processors that the calling thread may run on, as `--cpus` takes them: `0-3,8` (proc_pid_status(5)).
func usableCPUs() -> String {
    let descriptor = open("/proc/thread-self/status", O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return "others" }
    defer { close(descriptor) }
    // The line stands within the first two pages, whatever the name of the thread.
    let text = String(unsafeUninitializedCapacity: 8192) {
        max(0, read(descriptor, $0.baseAddress, $0.count))
    }
    let line = text.split(separator: "\n").first { $0.hasPrefix("Cpus_allowed_list:") }
    return line.map { String($0.drop { !$0.isNumber }) } ?? "others"
}
