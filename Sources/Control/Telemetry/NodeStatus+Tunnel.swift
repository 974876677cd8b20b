extension NodeStatus {
    /// The device that pods' packets go through; with host-gw the underlay's interface itself.
    public struct Tunnel: Codable, Sendable, Equatable {
        /// The device's name.
        public var interface: String
        /// The prefix that is routed to it.
        public var network: String
        /// Bytes.
        public var mtu: Int
        /// The network's backend: `udp`, `vxlan`, `host-gw`; nil from a release that does not tell.
        public var backend: String?
        /// The way of IPv6 packets, where that of IPv4 is another one: in a network of both families with a backend that has
        /// an endpoint of each; nil where they go together, and from a release that does not tell.
        public var ipv6: IPv6Way?

        /// A way of IPv6 packets.
        public struct IPv6Way: Codable, Sendable, Equatable {
            /// The device's name.
            public var interface: String
            /// This node's address on the underlay.
            public var underlayAddress: String
            /// Bytes.
            public var mtu: Int

            /// Makes a way.
            public init(interface: String, underlayAddress: String, mtu: Int) {
                self.interface = interface
                self.underlayAddress = underlayAddress
                self.mtu = mtu
            }
        }

        /// Makes a tunnel.
        public init(interface: String, network: String, mtu: Int) {
            self.interface = interface
            self.network = network
            self.mtu = mtu
        }
    }
}
