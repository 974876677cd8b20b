import Testing

@testable import CNI

@Suite struct NodeSubnetsTests {
    @Test("what a subnet.env says")
    func whole() throws {
        let subnets = try NodeSubnets(
            text: """
                # by flanneld
                export FLANNEL_NETWORK="10.244.0.0/16, 10.245.1.1/16"
                FLANNEL_SUBNET=10.244.3.1/24\r
                FLANNEL_IPV6_NETWORK=fd00::/48
                FLANNEL_IPV6_SUBNET=fd00:0:0:3::1/64
                FLANNEL_MTU=1472
                FLANNEL_IPMASQ=false
                """)
        #expect(subnets.networks.map { "\($0)" } == ["10.244.0.0/16", "10.245.0.0/16", "fd00::/48"])
        #expect(subnets.subnets.map { "\($0)" } == ["10.244.3.0/24", "fd00:0:0:3::/64"])
        #expect(subnets.mtu == 1472 && !subnets.masquerades)
    }

    @Test(
        "what is missing or wrong is named",
        arguments: [
            ("", "FLANNEL_NETWORK, FLANNEL_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ missing"),
            (
                "FLANNEL_NETWORK=10.0.0.0/8\nFLANNEL_SUBNET=10.1.0.1/24\nFLANNEL_MTU=1",
                "FLANNEL_IPMASQ missing"
            ),
            ("FLANNEL_NETWORK=10.0.0.0/8,x", "FLANNEL_NETWORK has x, which is no prefix"),
            ("FLANNEL_SUBNET=10.0.0.1/33", "FLANNEL_SUBNET has 10.0.0.1/33, which is no prefix"),
            (
                "FLANNEL_NETWORK=10.0.0.0/8\nFLANNEL_SUBNET=10.1.0.1/24\nFLANNEL_MTU=-1\nFLANNEL_IPMASQ=true",
                "FLANNEL_MTU is -1, which is no MTU"
            ),
        ])
    func faults(_ text: String, _ words: String) {
        let fault = #expect(throws: NodeSubnets.Fault.self) { try NodeSubnets(text: text) }
        #expect(fault?.description == words)
    }
}
