import Addresses
import CLinux
import Devices
import Glibc

/// The sockets of all workers.
struct WorkerSockets: Sendable {
    /// What each worker receives on: all of them have the network's port, and are in this order the group that the kernel
    /// chooses from. Who is opened comes last there; who is closed leaves its place to the last one
    /// (`__reuseport_detach_sock`, net/core/sock_reuseport.c), so that they are closed from the last one on.
    private(set) var receivers: [UnderlaySocket]
    /// What each worker sends on: the first from the network's port, the others from ports of their own.
    private(set) var senders: [Int32]
    /// What hellos are sent on, from the network's port; nil where the kernel refused it.
    private(set) var helloSender: Int32?
    /// The sockets that were received on before, at another port or address, for as long as peers may send there: at
    /// most one for each worker.
    private(set) var former: [Int32] = []

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
            helloSender = UnderlaySocket.openSenderWithoutChecksum(
                sharingPortOf: receivers[0],
                passing: senders[0] == receivers[0].descriptor ? [] : [senders[0]], at: endpoint)
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

    /// Sockets as they were opened one after another.
    private init(receivers: [UnderlaySocket], senders: [Int32], helloSender: Int32?) {
        self.receivers = receivers
        self.senders = senders
        self.helloSender = helloSender
    }

    /// Takes over sockets that somebody else has opened.
    ///
    /// - Parameters:
    ///   - named: the descriptors by their names; what is taken of them is these sockets' to close.
    ///   - endpoint: where they are bound.
    ///   - workers: how many there are.
    ///   - tuning: the sockets' buffers and offloads.
    ///
    /// - Throws: `UnderlaySocketError` where they are others than they are said to be; then they are the caller's.
    init(
        adopting named: NamedDescriptors, at endpoint: Endpoint, workers: Int, tuning: Tuning
    ) throws(UnderlaySocketError) {
        func missing(_ what: String) -> UnderlaySocketError {
            UnderlaySocketError(action: "take over \(what) of UDP \(endpoint)", errorNumber: EBADF)
        }
        receivers = []
        senders = []
        for worker in 0..<workers {
            guard let receiver = named[.receiver, worker] else { throw missing("receiver \(worker)") }
            receivers.append(
                try UnderlaySocket(
                    adopting: receiver, at: endpoint, bufferBytes: tuning.socketBufferBytes,
                    segmentation: tuning.usesSegmentation, coalescing: tuning.usesCoalescing))
            // Where a worker sends on the socket that it receives on, there is no other.
            let sender = named[.sender, worker] ?? receiver
            let port = worker == 0 ? endpoint.port : 0
            guard UnderlaySocket.isBound(sender, to: Endpoint(address: endpoint.address, port: port)) else {
                throw missing("sender \(worker)")
            }
            if sender != receiver {
                UnderlaySocket.setBuffers(of: sender, sendBytes: tuning.socketBufferBytes, receiveBytes: 0)
            }
            senders.append(sender)
        }
        helloSender = named[.helloSender, 0]
        if let helloSender, !UnderlaySocket.isBound(helloSender, to: endpoint) {
            throw missing("the hellos' sender")
        }
        former = (0..<workers).compactMap { named[.formerReceiver, $0] }
        if helloSender == nil {
            // Twills of before had none over IPv6. Nothing is thrown any more.
            helloSender = UnderlaySocket.openSenderWithoutChecksum(
                sharingPortOf: receivers[0], passing: connected, at: endpoint)
        }
    }

    /// Whether the first worker sends on the socket that it receives on, having got no other.
    var sendsOnItsReceiver: Bool { senders.first == receivers.first?.descriptor }

    /// The descriptors of all on the network's port, and of all that send.
    var descriptors: [Int32] { receivers.map(\.descriptor) + senders + (helloSender.map { [$0] } ?? []) }

    /// The former socket of a worker; -1 where it has none.
    func formerReceiver(ofWorker worker: Int) -> Int32 { worker < former.count ? former[worker] : -1 }

    /// Those on the network's port that only send.
    private var connected: [Int32] {
        (sendsOnItsReceiver ? [] : Array(senders.prefix(1))) + (helloSender.map { [$0] } ?? [])
    }

    /// Lets the kernel spread datagrams over the first workers' sockets by where they come from.
    ///
    /// - Parameter family: of the address that they are bound to.
    /// - Returns: whether it could. One socket needs no spreading.
    func steer(among workers: Int, of family: AddressFamily) -> Bool {
        UnderlaySocket.steer(Array(receivers[..<workers]), of: family) || receivers.count == 1
    }

    /// Lets no more datagrams come to the sockets behind the first workers', which are to be emptied and closed.
    func retire(behind workers: Int, of family: AddressFamily) {
        for receiver in receivers[workers...].reversed() { receiver.retire(family) }
    }

    /// The same sockets and more, for so many workers. Datagrams come to them once they are steered there.
    ///
    /// The first worker's sending socket is opened anew, so that it is the last on the port: it is what keeps others out
    /// (`UnderlaySocket.openSender`).
    ///
    /// - Throws: `UnderlaySocketError`; then there are as many as before.
    func growing(
        to workers: Int, at endpoint: Endpoint, tuning: Tuning
    ) throws(UnderlaySocketError) -> WorkerSockets {
        var all = self
        do throws(UnderlaySocketError) {
            for _ in receivers.count..<workers {
                all.receivers.append(
                    try UnderlaySocket.open(
                        endpoint, beside: receivers.first, passing: connected,
                        bufferBytes: tuning.socketBufferBytes, segmentation: tuning.usesSegmentation,
                        coalescing: tuning.usesCoalescing))
            }
            if !sendsOnItsReceiver {
                guard
                    let sender = UnderlaySocket.openSender(
                        sharingPortOf: receivers[0], passing: connected, at: endpoint,
                        bufferBytes: tuning.socketBufferBytes)
                else {
                    throw UnderlaySocketError(action: "open a sender on UDP \(endpoint)", errorNumber: errno)
                }
                all.senders[0] = sender
            }
            try UnderlaySocket.refuseIntruders(on: endpoint, beside: all.descriptors + descriptors)
            for place in receivers.count..<workers {
                all.senders.append(
                    try UnderlaySocket.openSender(
                        beside: endpoint, place: place, bufferBytes: tuning.socketBufferBytes))
            }
        } catch {
            closeRest(of: all)
            throw error
        }
        return all
    }

    /// The first workers' sockets; the others are open still.
    func narrowed(to workers: Int) -> WorkerSockets {
        var first = self
        first.receivers.removeSubrange(workers...)
        first.senders.removeSubrange(workers...)
        first.former = Array(former.prefix(workers))
        return first
    }

    /// These sockets, with the receivers of others as the former ones. The rest of the others is open still.
    func following(_ others: WorkerSockets) -> WorkerSockets {
        var all = self
        all.former = Array(others.receivers.map(\.descriptor).prefix(receivers.count))
        return all
    }

    /// These sockets without the former ones, which are open still.
    func forgettingFormer() -> WorkerSockets {
        var all = self
        all.former = []
        return all
    }

    /// These sockets with the buffers and offloads of another tuning.
    func tuned(at endpoint: Endpoint, _ tuning: Tuning) throws(UnderlaySocketError) -> WorkerSockets {
        var all = self
        for index in receivers.indices {
            all.receivers[index] = try UnderlaySocket(
                adopting: receivers[index].descriptor, at: endpoint, bufferBytes: tuning.socketBufferBytes,
                segmentation: tuning.usesSegmentation, coalescing: tuning.usesCoalescing)
        }
        return all
    }

    /// Closes what others have and these do not.
    func closeRest(of others: WorkerSockets) {
        var seen = Set(descriptors + former)
        for descriptor in others.inClosingOrder where seen.insert(descriptor).inserted {
            Glibc.close(descriptor)
        }
    }

    /// Closes all.
    func close() {
        var seen: Set<Int32> = []
        for descriptor in inClosingOrder where seen.insert(descriptor).inserted { Glibc.close(descriptor) }
    }

    private var inClosingOrder: [Int32] {
        receivers.reversed().map(\.descriptor) + senders + former + (helloSender.map { [$0] } ?? [])
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
