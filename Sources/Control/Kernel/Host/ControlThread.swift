import CLinux
import Glibc
import Synchronization

/// The thread that an actor's blocking calls run on: netlink, `/proc/sys`, child processes. They would hold up the
/// few threads of Swift's pool; and they act on the network namespace of their thread, which here is the one of
/// the thread that made it.
package final class ControlThread: SerialExecutor {
    private let jobs = Mutex<[UnownedJob]>([])
    private let isClosed = Atomic<Bool>(false)
    /// An eventfd that counts what the thread has to look at.
    private let wake: Int32

    /// Starts the thread.
    ///
    /// - Throws: where the kernel gives no thread, or no descriptor to wake it by.
    package init() throws(SystemError) {
        wake = eventfd(0, Int32(EFD_CLOEXEC))
        guard wake >= 0 else { throw SystemError("cannot make what wakes the control thread", code: errno) }
        // The thread keeps this object until `close`.
        try SystemThread.start("control") { self.run() }
    }

    deinit { Glibc.close(wake) }

    package func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        jobs.withLock { $0.append(job) }
        eventfd_write(wake, 1)
    }

    /// Lets the thread end after the jobs that it has.
    package func close() {
        isClosed.store(true, ordering: .releasing)
        eventfd_write(wake, 1)
    }

    private func run() {
        while true {
            let ready = jobs.withLock { jobs in
                defer { jobs = [] }
                return jobs
            }
            for job in ready { job.runSynchronously(on: asUnownedSerialExecutor()) }
            if ready.isEmpty {
                if isClosed.load(ordering: .acquiring) { return }
                var count: eventfd_t = 0
                eventfd_read(wake, &count)
            }
        }
    }
}
