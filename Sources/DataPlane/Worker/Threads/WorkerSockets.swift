import Addresses
import CLinux
import Devices
import Glibc

/// The sockets of all workers.
struct WorkerSockets: Sendable {
    /// What each worker receives on: all of them have the network's port.
    let receivers: [UnderlaySocket]
    /// What each worker sends on: the first from the network's port, the others from ports of their own.
    let senders: [Int32]
    /// What hellos are sent on, from the network's port; nil where the kernel refused it.
    let helloSender: Int32?

    /// Opens them. Where one cannot be opened, none stays open.
    ///
    /// - Parameters:
    ///   - endpoint: the underlay address, and the network's port.
    ///   - workers: how many there are, 1 or more.
    ///   - tuning: the sockets' buffers and offloads.
    static func open(
        at endpoint: Endpoint, workers: Int, tuning: Tuning
    ) throws(UnderlaySocketError) -> WorkerSockets {
        var receivers: [UnderlaySocket] = []
        var senders: [Int32] = []
        var helloSender: Int32?
        do throws(UnderlaySocketError) {
            for _ in 0..<workers {
                receivers.append(
                    try UnderlaySocket.open(
                        endpoint, beside: receivers.first, bufferBytes: tuning.socketBufferBytes,
                        segmentation: tuning.usesSegmentation, coalescing: tuning.usesCoalescing))
            }
            senders.append(
                UnderlaySocket.openSender(
                    sharingPortOf: receivers[0], at: endpoint, bufferBytes: tuning.socketBufferBytes)
                    ?? receivers[0].descriptor)
            helloSender = UnderlaySocket.openSenderWithoutChecksum(sharingPortOf: receivers[0], at: endpoint)
            // While these were opened, a process of the same user could have joined them.
            try UnderlaySocket.refuseIntruders(
                on: endpoint,
                beside: WorkerSockets(receivers: receivers, senders: senders, helloSender: helloSender)
                    .descriptors)
            for place in 1..<workers {
                senders.append(
                    try UnderlaySocket.openSender(
                        beside: endpoint, place: place, bufferBytes: tuning.socketBufferBytes))
            }
        } catch {
            WorkerSockets(receivers: receivers, senders: senders, helloSender: helloSender).close()
            throw error
        }
        return WorkerSockets(receivers: receivers, senders: senders, helloSender: helloSender)
    }

    /// Whether the first worker sends on the socket that it receives on, having got no other.
    var sendsOnItsReceiver: Bool { senders.first == receivers.first?.descriptor }

    /// The descriptors of all.
    var descriptors: [Int32] { receivers.map(\.descriptor) + senders + (helloSender.map { [$0] } ?? []) }

    /// Closes all.
    func close() {
        for receiver in receivers { receiver.close() }
        for sender in senders where sender != receivers.first?.descriptor { Glibc.close(sender) }
        if let helloSender { Glibc.close(helloSender) }
    }
}

/// An eventfd for each worker, by which the control side asks it for a round.
struct WakeDescriptors: Sendable {
    private let descriptors: [Int32]

    /// Makes them. Where one cannot be made, none stays open.
    static func open(count: Int) throws(DataPlaneError) -> WakeDescriptors {
        var descriptors: [Int32] = []
        for _ in 0..<count {
            let descriptor = eventfd(0, Int32(EFD_CLOEXEC))
            guard descriptor >= 0 else {
                let code = errno
                WakeDescriptors(descriptors: descriptors).close()
                throw .resource("make an eventfd", errorNumber: code)
            }
            descriptors.append(descriptor)
        }
        return WakeDescriptors(descriptors: descriptors)
    }

    /// That of one worker.
    subscript(_ worker: Int) -> Int32 { descriptors[worker] }

    /// Asks each worker for a round.
    func signal() { for descriptor in descriptors { eventfd_write(descriptor, 1) } }

    /// Closes all.
    func close() { for descriptor in descriptors { Glibc.close(descriptor) } }
}
