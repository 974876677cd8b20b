/// Whoever forwards by published routes: the workers, which read a snapshot (`ForwardingPublication`), and beside
/// them whatever else forwards, such as a map in the kernel.
public protocol ForwardingSubscriber: Sendable {
    /// Takes over routes in place of all that were published before. Calls come one after another.
    ///
    /// - Parameter routes: with the slot of each peer's counters, which all subscribers count in.
    /// - Returns: how many peers were left out, being more than the subscriber holds.
    @discardableResult
    func publish(_ routes: ForwardingRoutes) -> Int
}
