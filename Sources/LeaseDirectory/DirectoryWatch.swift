// A source's cancellation is thread-safe, which its Linux declaration does not say.
@preconcurrency import Dispatch
import Glibc
public import Leases

extension DirectoryStore {
    // On a shared file system inotify tells only what this machine wrote: the rest is found by looking.
    private static let rescanInterval = DispatchTimeInterval.seconds(2)

    /// Watches the directory by inotify, and by a look every two seconds.
    public nonisolated func watch(after revision: Int64) -> AsyncThrowingStream<StoreUpdate, any Error> {
        AsyncThrowingStream { continuation in
            let task = Task {
                do throws(LeaseStoreError) {
                    try await follow(after: revision, continuation)
                    continuation.finish()
                } catch {
                    continuation.finish(throwing: error)
                }
            }
            continuation.onTermination = { _ in task.cancel() }
        }
    }

    private nonisolated func follow(
        after revision: Int64, _ continuation: AsyncThrowingStream<StoreUpdate, any Error>.Continuation
    ) async throws(LeaseStoreError) {
        // Before the look that it continues, so that no change falls between the two.
        let signals = Self.signals(of: [root, subnets])
        let directories = [try root.status()?.inode, try subnets.status()?.inode]
        var known = try await contents(at: revision)
        continuation.yield(.alive(revision: revision))
        for await _ in signals {
            guard try [root.status()?.inode, subnets.status()?.inode] == directories else {
                throw LeaseStoreError(.historyLost, "\(name) was removed or replaced")
            }
            let current = try scan(knowing: known)
            let events = Self.events(from: known, to: current)
            if !events.isEmpty { continuation.yield(.changes(events, revision: revision)) }
            known = current
        }
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

    /// Tells that something may have changed: at once, then after each notification and each interval. Where
    /// inotify is used up (`fs.inotify.max_user_instances`), time alone does.
    private static func signals(of directories: [FilePath]) -> AsyncStream<Void> {
        let (signals, continuation) = AsyncStream.makeStream(
            of: Void.self, bufferingPolicy: .bufferingNewest(1))
        continuation.yield()
        let timer = DispatchSource.makeTimerSource()
        timer.schedule(deadline: .now() + rescanInterval, repeating: rescanInterval)
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
