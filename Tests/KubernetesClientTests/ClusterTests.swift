import KubernetesClient
import KubernetesNodes
import Testing

@Suite("A cluster's client")
struct ClusterTests {
}
