// How it works. A ring of fixed size with one writer, a packet thread, and one reader, the thread of the hellos: each
// has a count of its own that only it moves. A full ring takes nothing more, as a socket.

import Addresses
import CLinux
import Glibc
import Synchronization

/// Where a packet thread leaves the hellos that came to it, for the thread that answers them.
///
/// A reference to memory that `allocate` made and `deallocate` frees; copies refer to the same memory. One thread puts,
/// one takes; neither waits.
public struct HelloInbox: @unchecked Sendable {
    /// A hello and who sent it.
    public struct Arrival: Sendable, Equatable {
        /// The hello.
        public var message: HelloMessage
        /// Its datagram's source.
        public var sender: Endpoint
        /// When it came, nanoseconds of the monotonic clock.
        public var nanoseconds: Int
    }

    /// Hellos that are kept until they are taken. What comes beyond them within one turn of the reader's thread is lost.
    public static let capacity = 64

    private let arrivals: UnsafeMutablePointer<Arrival>
    /// How many were put, and how many taken.
    private let counts: UnsafeMutablePointer<Atomic<UInt64>>
    private let wake: Int32

    /// Allocates an empty one: some 3 KiB.
    ///
    /// - Parameter wake: an eventfd that its reader waits on, which stays the caller's.
    public static func allocate(wake: Int32) -> HelloInbox {
        let counts = UnsafeMutablePointer<Atomic<UInt64>>.allocate(capacity: 2)
        counts.initialize(to: Atomic(0))
        (counts + 1).initialize(to: Atomic(0))
        return HelloInbox(arrivals: .allocate(capacity: capacity), counts: counts, wake: wake)
    }

    /// Frees the memory; nobody may use it any more.
    public func deallocate() {
        counts.deinitialize(count: 2)
        counts.deallocate()
        arrivals.deallocate()
    }

    private func place(_ count: UInt64) -> UnsafeMutablePointer<Arrival> {
        arrivals + Int(truncatingIfNeeded: count) % HelloInbox.capacity
    }

    /// Leaves a hello, and wakes the reader where it had taken all there was. The writer's thread alone.
    ///
    /// - Parameter nanoseconds: when it came.
    /// - Returns: whether there was room.
    @discardableResult
    public func put(_ message: HelloMessage, from sender: Endpoint, atNanoseconds nanoseconds: Int) -> Bool {
        let put = counts[0].load(ordering: .relaxed)
        guard put &- counts[1].load(ordering: .acquiring) < UInt64(HelloInbox.capacity) else { return false }
        place(put).initialize(to: Arrival(message: message, sender: sender, nanoseconds: nanoseconds))
        counts[0].store(put &+ 1, ordering: .sequentiallyConsistent)
        // The reader looks at the one count after it moved the other, as this does: one of both sees what is there.
        if counts[1].load(ordering: .sequentiallyConsistent) == put { eventfd_write(wake, 1) }
        return true
    }

    /// Takes the hello that has been there for longest; nil where there is none. The reader's thread alone.
    public func take() -> Arrival? {
        let taken = counts[1].load(ordering: .relaxed)
        guard counts[0].load(ordering: .sequentiallyConsistent) != taken else { return nil }
        let arrival = place(taken).pointee
        counts[1].store(taken &+ 1, ordering: .sequentiallyConsistent)
        return arrival
    }
}
