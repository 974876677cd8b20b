// How it works. systemd keeps copies of descriptors for a service (sd_pid_notify_with_fds(3), FileDescriptorStoreMax=), and
// gives them to its next process, however the one before ended (sd_listen_fds(3)). So the TUN queues and the sockets stay
// open, and what comes waits in them. With them goes the state, in a sealed file in memory, which the daemon replaces as
// peers change and time passes: the newer one is stored before the older one is removed, under the other of two names.
// Whoever finds them takes them out of the store at once, and stores them again when its node stands: a state that ends
// its process is not met twice.

import CLinux
import Glibc
import Synchronization
import Worker

/// The descriptors that the service manager keeps for the next process.
final class DescriptorStore: Sendable {
    private static let stateNames = ["state-a", "state-b"]
    /// The first descriptor that systemd gives (SD_LISTEN_FDS_START).
    private static let firstDescriptor: Int32 = 3

    private let notification: ServiceNotification
    private let isKept: Bool
    private let stored = Mutex<(names: [String], nextState: Int)>(([], 0))

    /// - Parameters:
    ///   - notification: the socket of the service manager.
    ///   - environment: `FDSTORE` says how many descriptors it keeps (systemd 254); older ones do not say, and are told all
    ///     the same.
    init(_ notification: ServiceNotification, environment: [String: String]) {
        self.notification = notification
        isKept = environment["FDSTORE"].map { Int($0) ?? 0 > 0 } ?? true
    }

    /// What the process before has left, and takes it out of the store; nil where there is nothing, or nothing whole.
    ///
    /// - Parameter environment: as the service manager made it.
    @available(*, noasync, message: "it blocks: use onThread")
    func takeOut(
        environment: [String: String]
    ) -> (state: HandOverState, named: NamedDescriptors)? {
        guard let process = environment["LISTEN_PID"].flatMap(Int32.init), process == getpid(),
            let count = environment["LISTEN_FDS"].flatMap(Int32.init), (1...1024).contains(count)
        else { return nil }
        var names = (environment["LISTEN_FDNAMES"] ?? "").split(
            separator: ":", omittingEmptySubsequences: false
        )
        .map(String.init)
        names += [String](repeating: "", count: max(0, Int(count) - names.count))
        var named = NamedDescriptors()
        for (offset, name) in names.prefix(Int(count)).enumerated() {
            let descriptor = DescriptorStore.firstDescriptor + Int32(truncatingIfNeeded: offset)
            guard fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0 else { continue }
            if let double = named.descriptors.updateValue(descriptor, forKey: name) { close(double) }
        }
        for name in named.descriptors.keys.sorted() where !name.isEmpty { notification.remove(name) }
        // Both are there where the process ended between storing one and removing the other.
        let states = DescriptorStore.stateNames.compactMap { name -> HandOverState? in
            guard let file = named.descriptors.removeValue(forKey: name) else { return nil }
            defer { close(file) }
            return SealedFile.read(file).flatMap { try? HandOverState(reading: $0) }
        }
        guard let state = states.max(by: { $0.carriedPackets < $1.carriedPackets }),
            !named.descriptors.isEmpty
        else {
            named.close()
            return nil
        }
        return (state, named)
    }

    /// Stores descriptors and the state; those of before that are not among them are removed.
    @available(*, noasync, message: "it blocks: use onThread")
    func store(_ named: NamedDescriptors, _ state: HandOverState) {
        guard isKept, notification.isHeard else { return }
        let before = stored.withLock { $0.names }
        for name in before { notification.remove(name) }
        for (name, descriptor) in named.descriptors.sorted(by: { $0.key < $1.key }) {
            notification.store(descriptor, as: name)
        }
        stored.withLock { $0.names = named.descriptors.keys.sorted() }
        store(state)
    }

    /// Replaces the state.
    @available(*, noasync, message: "it blocks: use onThread")
    func store(_ state: HandOverState) {
        guard isKept, notification.isHeard else { return }
        let file = SealedFile.make(state.bytes)
        guard file >= 0 else { return }
        defer { close(file) }
        let index = stored.withLock { stored in
            defer { stored.nextState = 1 - stored.nextState }
            return stored.nextState
        }
        notification.store(file, as: DescriptorStore.stateNames[index])
        notification.remove(DescriptorStore.stateNames[1 - index])
    }

    /// Removes all.
    @available(*, noasync, message: "it blocks: use onThread")
    func clear() {
        let names = stored.withLock { stored in
            defer { stored.names = [] }
            return stored.names
        }
        guard !names.isEmpty else { return }
        for name in names + DescriptorStore.stateNames { notification.remove(name) }
    }

    /// Whether anything is stored.
    var isUsed: Bool { stored.withLock { !$0.names.isEmpty } }
}

extension HandOverState {
    /// Packets carried until it was written: of two states the later one has more, or as many.
    fileprivate var carriedPackets: UInt64 {
        (counters?["packets_sent"] ?? 0) &+ (counters?["packets_delivered"] ?? 0)
    }
}
