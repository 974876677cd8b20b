// How it works. What stands between a thread's start and its worker's loop: its name, its CPU, its memory, its
// engine. Each thread reports once, through an eventfd that counts the reports, and the starter waits for all of
// them.

import CLinux
import Counters
import Devices
import Engines
import Glibc
import Offload
import Synchronization

extension DataPlane {
    /// What a worker's thread does, from its start to its end.
    func run(_ index: Int, _ start: WorkerStart) {
        let tuning = configuration.tuning
        // What `top -H` and perf show; it would inherit the name of the thread that starts it.
        twill_name_thread("worker \(index)")
        if let cpu = tuning.cpu(ofWorker: index) {
            let result = twill_pin_thread(Int32(clamping: cpu))
            guard result == 0 else {
                return start.ready(
                    .resource(
                        "pin worker \(index) to CPU \(cpu) (--cpus; this process may use \(usableCPUs()))",
                        errorNumber: result))
            }
        }
        guard let memory = PacketMemory(limits, hugePages: tuning.usesHugePages) else {
            return start.ready(.resource("allocate packet buffers", errorNumber: ENOMEM))
        }
        if index == 0 { countStartFallbacks() }
        let offloads = sockets.receivers[index].offloads
        let settings = WorkerSettings(
            tunnelAddress: configuration.tunnelAddress,
            tunnelAddressIPv6: configuration.tunnelAddressIPv6,
            acceptsAnySource: configuration.acceptsAnySource,
            segmentLimit: offloads.segmentation ? offloads.segmentLimit : 1,
            coalesces: mergedKinds, busyPollMicroseconds: tuning.busyPollMicroseconds,
            minimumWaitMicroseconds: tuning.minimumWaitMicroseconds)
        let (tunnel, socket, sender, wake) = (
            tunnel.queues[index].descriptor, sockets.receivers[index].descriptor, sockets.senders[index],
            wakes[index]
        )
        switch engine {
        case .mmsg:
            do throws(MmsgError) {
                let engine = try MmsgEngine(
                    memory: memory, tunnel: tunnel, socket: socket, sender: sender, wake: wake,
                    entries: limits.ringEntries)
                start.ready(nil)
                loop(engine, memory, settings, index)
            } catch { start.ready(.engine(error.description, errorNumber: error.errorNumber)) }
        case .uring, .automatic:
            do throws(UringError) {
                let engine = try UringEngine(
                    memory: memory, tunnel: tunnel, socket: socket, sender: sender, wake: wake,
                    entries: limits.ringEntries, usesSubmissionPolling: tuning.usesSubmissionPolling)
                if !engine.usesRegisteredBuffers { blocks[index].add(.lockedMemoryFallbacks) }
                start.ready(nil)
                loop(engine, memory, settings, index)
            } catch {
                let advice = "; or give --engine=auto, which goes on with plain system calls"
                start.ready(.engine(error.description + advice, errorNumber: error.errorNumber))
            }
        }
        memory.deallocate()
    }

    /// Counts what was asked for and refused; on the first worker's thread, whose counters tell.
    private func countStartFallbacks() {
        let refused = configuration.tuning.tunnelOffloads.subtracting(tunnel.offloads)
        let fallbacks: [(Counter, Bool)] = [
            (
                .receiveCoalescingFallbacks,
                configuration.tuning.usesCoalescing && !underlayOffloads.coalescing
            ),
            (.segmentationFallbacks, configuration.tuning.usesSegmentation && !underlayOffloads.segmentation),
            (.tunnelStreamFallbacks, !refused.isDisjoint(with: [.tcp4, .tcp6, .tcpECN])),
            (.tunnelDatagramFallbacks, !refused.isDisjoint(with: .udp)),
            (.datagramSteeringFallbacks, !steersDatagrams), (.packetSteeringFallbacks, !steersPackets),
            (.sendingSocketFallbacks, sockets.sendsOnItsReceiver),
        ]
        for (counter, isTaken) in fallbacks where isTaken { blocks[0].add(counter) }
    }

    /// What the TUN device may be given merged: what it would also give.
    private var mergedKinds: MergedKinds {
        var kinds: MergedKinds = []
        if tunnel.offloads.contains(.tcp4) { kinds.insert(.tcpOverIPv4) }
        if tunnel.offloads.contains(.tcp6) { kinds.insert(.tcpOverIPv6) }
        if tunnel.offloads.contains(.udp) { kinds.insert(.udp) }
        return kinds
    }

    private func loop<Engine: PacketEngine & ~Copyable>(
        _ engine: consuming Engine, _ memory: PacketMemory, _ settings: WorkerSettings, _ index: Int
    ) {
        var worker = Worker(
            engine: engine, memory: memory, limits: limits, settings: settings, counters: blocks[index],
            peerCounters: peerBlocks[index], records: records[index], reader: publication.reader(index),
            hellos: hellos.inboxes[index], kernelPathTraffic: kernelPath?.traffic)
        while !stopping.load(ordering: .relaxed) {
            let result = worker.round()
            if result != 0 {
                failure.store(-result, ordering: .releasing)
                break
            }
        }
        worker.close()
    }
}

/// What a worker's thread is given.
final class WorkerThread: Sendable {
    let dataPlane: DataPlane
    let index: Int
    let start: WorkerStart

    init(dataPlane: DataPlane, index: Int, start: WorkerStart) {
        self.dataPlane = dataPlane
        self.index = index
        self.start = start
    }
}

/// Where the threads tell that they are ready, and the starter waits for all of them: an eventfd counts them.
final class WorkerStart: Sendable {
    private let count: Int
    private let answers: Int32
    private let error = Mutex<DataPlaneError?>(nil)

    /// Nil where the kernel has no more descriptors; `errno` says which limit.
    init?(count: Int) {
        self.count = count
        answers = eventfd(0, Int32(EFD_CLOEXEC | EFD_SEMAPHORE))
        if answers < 0 { return nil }
    }

    deinit { if answers >= 0 { Glibc.close(answers) } }

    func ready(_ failure: DataPlaneError?) {
        error.withLock { if $0 == nil { $0 = failure } }
        eventfd_write(answers, 1)
    }

    func wait() -> DataPlaneError? {
        var answered = 0
        while answered < count {
            var value: eventfd_t = 0
            if eventfd_read(answers, &value) == 0 { answered += 1 }
        }
        return error.withLock { $0 }
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
