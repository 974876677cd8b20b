import CLinux
import Glibc

/// Threads for what waits for the system: a call that blocks there holds up nothing but its own thread, and no thread of
/// Swift's concurrency, which has as many of them as the machine has cores.
package enum SystemThread {
    /// Starts a thread, in the network namespace of the calling thread. It ends with `body`.
    ///
    /// - Parameters:
    ///   - name: what `top -H` shows, at most 15 bytes.
    ///   - givesWay: whether it leaves most of a full CPU to the other threads there, the packet threads above all.
    ///   - body: what it does. The thread alone has what this holds.
    /// - Throws: where the kernel refuses.
    package static func start(
        _ name: String, givesWay: Bool = false, _ body: sending @escaping () -> Void
    ) throws(SystemError) {
        let work = Unmanaged.passRetained(Work(name: name, givesWay: givesWay, body: body))
        var thread = pthread_t()
        let code = pthread_create(
            &thread, nil,
            { argument in
                guard let argument else { return nil }
                let work = Unmanaged<Work>.fromOpaque(argument).takeRetainedValue()
                if work.givesWay {
                    // Of the calling thread alone (setpriority(2), notes). To be nicer takes no right.
                    setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, SystemThread.nice)
                }
                // Whoever sees the name sees a thread that gives way already.
                twill_name_thread(work.name)
                work.body()
                return nil
            }, work.toOpaque())
        guard code == 0 else {
            work.release()
            throw SystemError("cannot start the thread \(name)", code: code)
        }
        pthread_detach(thread)
    }

    /// The nice value of one that gives way: beside one other thread a tenth of a CPU (weights of 110 and 1024,
    /// `sched_prio_to_weight`, kernel/sched/core.c, Linux 6.18). With 19 it would be a seventieth, and 0.2 s of work last 14 s.
    static let nice: Int32 = 10

    /// What a thread is given.
    private final class Work {
        let name: String
        let givesWay: Bool
        let body: () -> Void

        init(name: String, givesWay: Bool, body: @escaping () -> Void) {
            self.name = name
            self.givesWay = givesWay
            self.body = body
        }
    }
}
