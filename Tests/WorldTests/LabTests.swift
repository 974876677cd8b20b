import Kit
import NetworkNamespaces
import Testing

/// What the tests stand on.
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct LabTests {
    /// A lab ends by the numbers of its namespaces what runs in them. The kernel gives the number of a namespace that is
    /// gone to a later one, which is another lab's.
    @Test func theNumberOfAPodsNamespaceIsTheLabsForAsLongAsItLasts() async throws {
        let lab = try await Lab(nodes: 1, config: nil)
        try lab.write("node1/subnet.env", "FLANNEL_MTU=1472\n")
        // Nobody else keeps the pod.
        let number = try await lab[1].addPod(in: "100.96.1.0/24").run("readlink /proc/self/ns/net")
        var others: [(number: String, namespace: NetworkNamespace.Lease)] = []
        // The kernel takes a namespace down some time after its last user, and gives away low numbers first.
        for _ in 0..<100 where !others.contains(where: { $0.number == number }) {
            let namespace = try await NetworkNamespace.make()
            others.append((try await namespace.run { try execute("readlink /proc/self/ns/net") }, namespace))
        }
        #expect(!others.contains { $0.number == number })
        _ = lab
    }
}
