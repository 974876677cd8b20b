// A source's cancellation is thread-safe, which its Linux declaration does not say.
@preconcurrency import Dispatch
import Glibc
import Health
public import Leases

extension DirectoryStore {
    // On a shared file system inotify tells only what this machine wrote: the rest is found by looking.
    private static let rescanInterval = DispatchTimeInterval.seconds(2)
    // How often the clocks are compared and orphans looked for.
    private static let upkeepInterval = Duration.seconds(60)
    // How far a clock may be off before that is said: what a machine without a time service gains in a month or so.
    private static let clockTolerance = Duration.seconds(60)
    // A holder's name is without its lease for milliseconds; after this it belongs to a write that was cut short.
    private static let orphanTime = Duration.seconds(600)

    /// Watches the directory by inotify, and by a look every two seconds.
    public func watch(after position: StorePosition) -> AsyncThrowingStream<StoreUpdate, any Error> {
        AsyncThrowingStream { continuation in
            let task = Task {
                do throws(LeaseStoreError) {
                    try await follow(after: position, continuation)
                    continuation.finish()
                } catch {
                    continuation.finish(throwing: error)
                }
            }
            continuation.onTermination = { _ in task.cancel() }
        }
    }

    /// What a watch found to tell.
    private struct News: Sendable {
        var events: [StoreEvent] = []
        var conditions: [Component: Problem]?
        /// What is watched from here on, where that is not what was.
        var newDirectories: [String]?
    }

    /// In the place of a folder's identity that is not there.
    private static let absent = "none"

    private func follow(
        after position: StorePosition,
        _ continuation: AsyncThrowingStream<StoreUpdate, any Error>.Continuation
    ) async throws(LeaseStoreError) {
        let (number, signals, directories) = try await queue.run { () throws(LeaseStoreError) in
            // Before the look that it continues, so that no change falls between the two.
            let signals = self.signals()
            return (try self.beginWatch(after: position), signals, try self.watchedDirectories())
        }
        defer { state.withLock { $0.baselines[number] = nil } }
        continuation.yield(.alive(position))
        var watch = Watch(number: number, position: position, directories: directories)
        var next: AsyncStream<Void>? = signals
        while let signals = next { next = try await look(&watch, at: signals, continuation) }
    }

    /// A watch that goes on.
    private struct Watch {
        let number: Int
        let position: StorePosition
        var directories: [String]
        var lastUpkeep: Duration?
    }

    /// Looks for changes at each signal. Gives other signals where the folder of the leases came to be, which the first node of
    /// a network makes; nil at the end.
    private func look(
        _ watch: inout Watch, at signals: AsyncStream<Void>,
        _ continuation: AsyncThrowingStream<StoreUpdate, any Error>.Continuation
    ) async throws(LeaseStoreError) -> AsyncStream<Void>? {
        for await _ in signals {
            let now = clocks.monotonic()
            let isUpkeepDue = watch.lastUpkeep.map { $0 + Self.upkeepInterval <= now } ?? true
            let (number, directories) = (watch.number, watch.directories)
            let news = try await queue.run { () throws(LeaseStoreError) in
                let current = try self.watchedDirectories()
                guard
                    current == directories
                        || current.first == directories.first && directories.last == Self.absent
                else {
                    throw LeaseStoreError(
                        .historyLost, "\(self.name) was removed, replaced, mounted or unmounted")
                }
                // Those that began without the folder say nothing of what is in it.
                guard current == directories else { return News(newDirectories: current) }
                var news = News(events: try self.lookForChanges(since: number))
                if isUpkeepDue {
                    news.conditions = self.compareClocks()
                    self.collectOrphans()
                }
                return news
            }
            if let newDirectories = news.newDirectories {
                watch.directories = newDirectories
                return self.signals()
            }
            if let conditions = news.conditions {
                watch.lastUpkeep = now
                continuation.yield(.conditions(conditions))
            }
            if !news.events.isEmpty { continuation.yield(.changes(news.events, upTo: watch.position)) }
        }
        return nil
    }

    private func beginWatch(after position: StorePosition) throws(LeaseStoreError) -> Int {
        let number: Int? = state.withLock { state in
            guard position == state.position else { return nil }
            state.watchCount += 1
            state.baselines[state.watchCount] = state.contents
            return state.watchCount
        }
        guard let number else {
            throw LeaseStoreError(
                .historyLost, "\(name): the snapshot \(position.number) is not the last one any longer")
        }
        return number
    }

    private func watchedDirectories() throws(LeaseStoreError) -> [String] {
        let status = try subnets.status()
        return [try directoryIdentity(), status.map { "\($0.device):\($0.inode)" } ?? Self.absent]
    }

    private func lookForChanges(since number: Int) throws(LeaseStoreError) -> [StoreEvent] {
        guard let known = state.withLock({ $0.baselines[number] }) else { return [] }
        let current = try scan(knowing: known)
        state.withLock { state in
            if state.baselines[number] != nil { state.baselines[number] = current }
        }
        return Self.events(from: known, to: current)
    }

    private static func events(from known: Contents, to current: Contents) -> [StoreEvent] {
        var events: [StoreEvent] = []
        if known.configuration != current.configuration {
            events.append(.configuration(current.configuration))
        }
        for key in known.files.keys where current.files[key] == nil { events.append(.deleted(key: key)) }
        for (key, file) in current.files where known.files[key]?.status != file.status {
            events.append(.put(file.entry))
        }
        return events
    }

    // MARK: Upkeep

    /// Whether this machine's clock is the file system's. Nobody loses a lease by it, but people read both. Nil where
    /// that cannot be found out yet: there is no directory to write into before the first lease.
    private func compareClocks() -> [Component: Problem]? {
        guard let there = try? fileSystemTime() else { return nil }
        let here = clocks.wall()
        let apart = here - there
        guard apart > Self.clockTolerance || apart < .zero - Self.clockTolerance else { return [:] }
        let seconds = apart.components.seconds.magnitude
        let extent =
            seconds < 7200
            ? "\(seconds / 60) minutes"
            : seconds < 172_800 ? "\(seconds / 3600) hours" : "\(seconds / 86_400) days"
        return [
            Component(.clock): Problem(
                .degraded,
                "this machine's clock says \(here), that of \(name) \(there): they are \(extent) apart; no lease is lost by it",
                remedy: "set the clock that is wrong (timedatectl, chronyc tracking)")
        ]
    }

    /// Removes what writes that were cut short have left among the holders.
    @available(*, noasync, message: "it blocks: use the store's queue")
    func collectOrphans() {
        guard let names = try? holders.names(hidden: true) else { return }
        let now = clocks.monotonic()
        let known = state.withLock { $0.orphans }
        var orphans: [String: Duration] = [:]
        for name in names {
            let path = holders.appending(name)
            guard let status = try? path.status(), status.oddity == nil,
                status.links == 1 || name.hasPrefix(".")
            else { continue }
            let since = known[name] ?? now
            if since + Self.orphanTime <= now { path.remove() } else { orphans[name] = since }
        }
        state.withLock { $0.orphans = orphans }
    }

    // MARK: Signals

    /// Tells that something may have changed: at once, then after each notification and each interval. Where
    /// inotify is used up (`fs.inotify.max_user_instances`), time alone does.
    private func signals() -> AsyncStream<Void> {
        let directories = [root, subnets]
        let (signals, continuation) = AsyncStream.makeStream(
            of: Void.self, bufferingPolicy: .bufferingNewest(1))
        continuation.yield()
        let timer = DispatchSource.makeTimerSource()
        timer.schedule(deadline: .now() + Self.rescanInterval, repeating: Self.rescanInterval)
        timer.setEventHandler { continuation.yield() }
        timer.activate()
        let descriptor = inotify_init1(Int32(IN_NONBLOCK | IN_CLOEXEC))
        guard descriptor >= 0 else {
            continuation.onTermination = { _ in timer.cancel() }
            return signals
        }
        let changes = IN_ATTRIB | IN_CLOSE_WRITE | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO
        for directory in directories {
            inotify_add_watch(descriptor, directory.description, UInt32(bitPattern: changes))
        }
        let notifications = DispatchSource.makeReadSource(fileDescriptor: descriptor)
        notifications.setEventHandler {
            // What they say is found by looking; that there are some is enough.
            withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 8) { buffer in
                while read(descriptor, buffer.baseAddress, buffer.count) > 0 {}
            }
            continuation.yield()
        }
        notifications.setCancelHandler { close(descriptor) }
        notifications.activate()
        continuation.onTermination = { _ in
            timer.cancel()
            notifications.cancel()
        }
        return signals
    }
}
