import KubernetesNodes
import Leases
import Logging

#if !TWILL_WITHOUT_GRPC
    import KubernetesClient
#endif

/// How this node is one of its network: what its options' `NetworkOrigin` comes to.
enum Membership: Sendable {
    /// By a lease in a store.
    case leased(any LeaseStore)
    /// As a node of a cluster, which assigns its subnet.
    case assigned(any AssigningCluster)

    /// Opens what `origin` names; it connects at the first request. Blocks for as long as files do.
    ///
    /// - Throws: where the options do not work, whatever the store or the cluster says.
    init(opening origin: NetworkOrigin, logger: Logger, heartbeats: Heartbeats) throws(ExitFailure) {
        switch origin {
        case .store(let options):
            do throws(LeaseStoreError) {
                self = .leased(try options.open())
            } catch {
                throw ExitFailure(error)
            }
        #if TWILL_WITHOUT_GRPC
            case .kubernetes:
                throw ExitFailure(
                    .unavailable,
                    "this twilld was built without Kubernetes (TWILL_WITHOUT_GRPC); "
                        + "build it without that variable, or use --lease-dir")
        #else
            case .kubernetes(let options):
                do throws(KubernetesOptionsError) {
                    let heartbeat: @Sendable () -> Void = { heartbeats.stamp(.leaseKeeper) }
                    self = .assigned(
                        try KubernetesCluster(options: options, logger: logger, heartbeat: heartbeat))
                } catch {
                    throw ExitFailure(.configuration, error.description)
                }
        #endif
        }
    }

    /// As logs and the status call it.
    var name: String {
        switch self {
        case .leased(let store): store.name
        case .assigned(let cluster): cluster.name
        }
    }
}
