import CLinux
import Glibc

/// Threads for what waits for the system: a call that blocks there holds up nothing but its own thread, and no thread of
/// Swift's concurrency, which has as many of them as the machine has cores.
package enum SystemThread {
    /// Starts a thread, in the network namespace of the calling thread. It ends with `body`.
    ///
    /// - Parameters:
    ///   - name: what `top -H` shows, at most 15 bytes.
    ///   - body: what it does. The thread alone has what this holds.
    /// - Throws: where the kernel refuses.
    package static func start(
        _ name: String, _ body: sending @escaping () -> Void
    ) throws(SystemError) {
        let work = Unmanaged.passRetained(Work(name: name, body: body))
        var thread = pthread_t()
        let code = pthread_create(
            &thread, nil,
            { argument in
                guard let argument else { return nil }
                let work = Unmanaged<Work>.fromOpaque(argument).takeRetainedValue()
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

    /// What a thread is given.
    private final class Work {
        let name: String
        let body: () -> Void

        init(name: String, body: @escaping () -> Void) {
            self.name = name
            self.body = body
        }
    }
}
