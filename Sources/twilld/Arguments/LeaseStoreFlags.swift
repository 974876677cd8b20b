import ArgumentParser
import FoundationEssentials
import Host
import Leases
import NodeDaemon

/// The store of leases, for the commands that do something to one. A cluster that assigns subnets has none.
struct LeaseStoreFlags: FlagGroup {
    static let flags = StoreFlags.flags + KubernetesModeFlag.flags

    @OptionGroup var store: StoreFlags
    @OptionGroup var kubernetes: KubernetesModeFlag

    /// Opens the store and does something to it; failures become what the program ends with.
    ///
    /// - Parameter instead: what does the same in a cluster that assigns subnets.
    func operate<Result: Sendable>(
        instead: String, _ body: (LeaseOperations) async throws -> Result
    ) async throws(ExitFailure) -> Result {
        guard !kubernetes.kubeSubnetMgr else {
            throw ExitFailure(
                .usage,
                "with --kube-subnet-mgr there is no store of leases: subnets are the nodes' podCIDRs; use \(instead)"
            )
        }
        let options = store.options
        do {
            let operations = LeaseOperations(store: try await onThread { try options.open() })
            return try await body(operations)
        } catch let error as LeaseStoreError {
            let failure = ExitFailure(error)
            guard error.kind == .unreachable else { throw failure }
            if store.isDefault, !kubernetes.isGivenOrInPod {
                throw ExitFailure(
                    failure.status,
                    "\(failure.message); no store was named, and these are the usual endpoints: give "
                        + "--etcd-endpoints, --lease-dir, or --config with the daemon's file")
            }
            // Nobody gives --kube-subnet-mgr to a command that is run in the daemon's pod.
            guard kubernetes.isGivenOrInPod else { throw failure }
            throw ExitFailure(
                failure.status,
                "\(failure.message); if this pod's twilld has --kube-subnet-mgr, use \(instead)")
        } catch let error as NetworkConfigurationError {
            throw ExitFailure(.configuration, error.description)
        } catch let error as LeaseOperationError {
            throw ExitFailure(.configuration, error.description)
        } catch {
            throw ExitFailure(.system, plainWords(error))
        }
    }
}
