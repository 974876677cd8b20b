package import Addresses
package import JSON
package import Reconciler

/// flannel's alloc: a node gets a subnet and nothing is carried: another program sees to how packets reach the other nodes.
/// It has no keys and announces nothing, not even its name: a lease of it is one of udp's without a port.
package struct AllocationBackend: Backend {
    package static let typeName = "alloc"
    package static let announcedType: String? = nil
    package static let keys: Set<String> = []
    /// As flannel: one address, of IPv4 where the network has it.
    package static let hasEndpointOfEachFamily = false
    package static let hasDataPlane = false

    /// There are no ports.
    package var port: UInt16 { 0 }

    /// flannel's alloc, which has nothing to be set.
    package init() {}

    /// Reads nothing.
    ///
    /// - Throws: nothing: there is no key that could be wrong.
    package init(reading _: BackendSettings) throws(BackendError) {}

    /// Nothing is announced.
    ///
    /// - Throws: nothing: whatever a lease says there is left out.
    package static func data(reading _: JSONValue?) throws(BackendError) -> (any BackendData)? { nil }

    package func mtu(over _: AddressFamily) -> Int? { nil }
    package func overhead(over _: AddressFamily) -> Int { 0 }
    package func interfaceName(in place: BackendPlace) -> String { place.underlayName }
    package func desiredItems(in _: BackendPlace, peers _: [BackendPeer]) -> [any DesiredItem] { [] }
    package func hops(to _: BackendPeer, in _: BackendPlace) -> [BackendHop]? { [] }
}

extension AllocationBackend: CustomStringConvertible {
    /// `alloc`.
    package var description: String { Self.typeName }
}
