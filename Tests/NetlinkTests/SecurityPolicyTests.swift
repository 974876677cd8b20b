import NetworkNamespaces
import Testing

@testable import Netlink

/// Whether this node encrypts what it sends.
@Suite(.enabled(if: namespacesAreExpected)) struct SecurityPolicyTests {
    @Test func policiesForPacketsOnTheirWayOutAreCounted() async throws {
        let namespace = try await NetworkNamespace.make()
        try await namespace.run {
            #expect(try SecurityPolicies.outboundCount() == 0)
            try execute(
                "ip xfrm policy add src 10.0.0.1 dst 10.0.0.2 dir out tmpl src 10.0.0.1 dst 10.0.0.2 proto esp mode transport"
            )
            #expect(try SecurityPolicies.outboundCount() == 1)
        }
    }
}
