// How it works. Whoever logs leaves its line in a queue and goes on; one thread takes the lines out and writes them.
// A standard error that takes nothing (journald is stalled, `docker logs` reads no more, a `tee` was stopped) then
// holds up that thread alone: leases, routes, packets and signals go on. What finds the queue full is lost and
// counted, and once lines pass again the log itself says how many are missing, at the place where they are.

import Dispatch
import Glibc
import Health
import Host
import Synchronization

/// Writes lines to a descriptor on a thread of its own; nobody who logs waits for more than a lock held for
/// microseconds.
package final class LogWriter: Sendable {
    /// What the queue holds at most. A line is some 200 bytes, so that 1 MiB are about 5,000 of them, half an hour of
    /// a node with trouble; each costs some 80 bytes beside its text, so that 8,192 of them cost 0.7 MB more.
    struct Limits: Sendable {
        var lines = 8192
        var bytes = 1 << 20
    }

    /// Standard error of this process. The first use notices whether it is open at all, so that it comes before any
    /// file is opened that would take its number.
    package static let standardError = LogWriter(descriptor: STDERR_FILENO)

    /// How long a write may take before it is a problem: a reader that is merely busy comes back sooner.
    private static let stallLimit = Duration.seconds(2)
    /// How long a non-blocking descriptor is waited for at a time.
    private static let pollMilliseconds: Int32 = 1000

    private struct State {
        var lines: [String] = []
        /// Of `lines` and of what the thread is writing.
        var waitingLines = 0
        var waitingBytes = 0
        /// Not yet told of in the log.
        var lost: UInt64 = 0
        var lostInAll: UInt64 = 0
        var failure: Int32?
        var writingSince: SuspendingClock.Instant?
    }

    private let descriptor: Int32
    private let limits: Limits
    private let state = Mutex(State())
    private let wake = DispatchSemaphore(value: 0)
    private let hasThread = Atomic<Bool>(true)

    /// Makes a writer and starts its thread, which lasts as long as the process.
    init(descriptor: Int32, limits: Limits = Limits()) {
        self.descriptor = descriptor
        self.limits = limits
        do throws(SystemError) {
            try SystemThread.start("log") { self.run() }
        } catch {
            hasThread.store(false, ordering: .relaxed)
        }
    }

    /// How many lines could not be written since the start.
    var lostLines: UInt64 { state.withLock { $0.lostInAll } }

    /// Leaves a line, without its end, to be written.
    package func write(_ line: String) {
        let bytes = line.utf8.count + 1
        let isTaken = state.withLock { state in
            guard state.waitingLines < limits.lines, state.waitingBytes + bytes <= limits.bytes else {
                state.lost &+= 1
                state.lostInAll &+= 1
                return false
            }
            state.lines.append(line)
            state.waitingLines += 1
            state.waitingBytes += bytes
            return true
        }
        guard isTaken else { return }
        if hasThread.load(ordering: .relaxed) { wake.signal() } else { writeWaiting() }
    }

    /// Waits until everything is written, `milliseconds` at most.
    ///
    /// - Returns: whether it is.
    @discardableResult
    package func flush(milliseconds: Int) -> Bool {
        let deadline = SuspendingClock.now + .milliseconds(milliseconds)
        while state.withLock({
            $0.waitingLines > 0 || $0.writingSince != nil || ($0.lost > 0 && $0.failure == nil)
        }) {
            guard SuspendingClock.now < deadline else { return false }
            wake.signal()
            usleep(500)
        }
        return true
    }

    /// What is wrong with the log at `now`; nil where lines pass.
    func problem(now: SuspendingClock.Instant) -> Problem? {
        let (failure, since, waiting, lost, lostInAll) = state.withLock {
            ($0.failure, $0.writingSince, $0.waitingLines, $0.lost, $0.lostInAll)
        }
        if let failure {
            return Problem(
                .degraded,
                "the log can't be written to standard error: \(String(cString: strerror(failure))); "
                    + "lines lost so far: "
                    + "\(lostInAll)",
                remedy:
                    "see what standard error is connected to (journald, a file on a full disk, a closed pipe)"
            )
        }
        if let since, now - since > LogWriter.stallLimit {
            return Problem(
                .degraded,
                "the log's reader has taken nothing for \((now - since).components.seconds) s; lines "
                    + "waiting: \(waiting), "
                    + "lost so far: \(lostInAll)",
                remedy:
                    "see what reads standard error (journald, docker logs, tee); packets and leases do "
                    + "not wait for it"
            )
        }
        guard lost > 0 else { return nil }
        return Problem(
            .degraded, "the log is written more slowly than lines come; lost so far: \(lostInAll)",
            remedy: "see what reads standard error, or give a smaller -v")
    }

    // MARK: On the thread

    private func run() {
        while true {
            wake.wait()
            writeWaiting()
        }
    }

    private func writeWaiting() {
        let lines = state.withLock { state in
            defer { state.lines = [] }
            return state.lines
        }
        for line in lines {
            state.withLock { $0.writingSince = .now }
            let failure = write(text: line + "\n")
            state.withLock { state in
                state.writingSince = nil
                state.waitingLines -= 1
                state.waitingBytes -= line.utf8.count + 1
                state.failure = failure
                guard failure != nil else { return }
                state.lost &+= 1
                state.lostInAll &+= 1
            }
        }
        tellLost()
    }

    /// Says in the log that lines are missing in it.
    private func tellLost() {
        let lost = state.withLock { state in
            // Those that came meanwhile stand before the loss: they are written first.
            guard state.lines.isEmpty, state.lost > 0 else { return UInt64(0) }
            state.writingSince = .now
            return state.lost
        }
        guard lost > 0 else { return }
        let failure = write(
            text:
                "\(LogLineHead.standardError.text(.warning)) event=\(EventName.logLinesLost) lines=\(lost)\n"
        )
        state.withLock { state in
            state.writingSince = nil
            state.failure = failure
            if failure == nil { state.lost -= lost }
        }
    }

    /// Writes a text. Gives the error number where it could not.
    private func write(text: String) -> Int32? {
        var text = text
        return text.withUTF8 { bytes in
            var rest = UnsafeRawBufferPointer(bytes)
            while !rest.isEmpty {
                let count = Glibc.write(descriptor, rest.baseAddress, rest.count)
                if count > 0 {
                    rest = UnsafeRawBufferPointer(rebasing: rest[count...])
                    continue
                }
                let code = count == 0 ? EIO : errno
                switch code {
                case EINTR: continue
                case EAGAIN:
                    // Another program that has the same terminal or pipe made it non-blocking.
                    var wait = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                    _ = poll(&wait, 1, LogWriter.pollMilliseconds)
                default: return code
                }
            }
            return nil
        }
    }
}

/// The descriptors 0, 1 and 2, which whoever started the process may have closed.
package enum StandardStreams {
    /// Opens each that is closed on /dev/null, so that no file or socket gets its number and then what is meant for
    /// people. What is written to a standard error that was closed fails from then on, and is counted as lost.
    package static func fillClosed() {
        for descriptor in [STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO] where fcntl(descriptor, F_GETFD) < 0 {
            // Descriptors are given out by rising number. Open for reading alone, so that writing fails and
            // is noticed.
            let opened = open("/dev/null", descriptor == STDOUT_FILENO ? O_RDWR : O_RDONLY)
            if opened >= 0, opened != descriptor {
                dup2(opened, descriptor)
                close(opened)
            }
        }
    }
}
