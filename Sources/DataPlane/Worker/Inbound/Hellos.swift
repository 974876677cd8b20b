import Addresses
import Hello

extension Worker where Engine: ~Copyable {
    /// Leaves a datagram that is too short for a packet, of a known peer, for the thread of the hellos, where it is one.
    /// Returns whether it is one.
    @inline(never)
    mutating func takeHello(_ bytes: UnsafeMutableRawPointer, length: Int, sender: Endpoint?) -> Bool {
        guard let message = HelloMessage(bytes, length: length) else { return false }
        // Where the thread has no time for it, it is lost, as anywhere on the way.
        if let sender, let hellos { hellos.put(message, from: sender, atNanoseconds: engine.nowNanoseconds) }
        return true
    }
}
