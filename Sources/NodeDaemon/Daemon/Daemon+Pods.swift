import Addresses
import Glibc
import Health
import Host
import Node
import Reconciler

// What pods get their network by, beside the overlay: the CNI list, the bridge that they are on; and who is told that
// all of it stands.
extension Daemon {
    /// What is kept and looked after for pods once `file` stands.
    ///
    /// - Parameter pods: where they are, by each family.
    func podItems(in pods: [PodPrefix], after file: KeptSubnetFile) -> [any DesiredItem] {
        var items: [any DesiredItem] = []
        var bridgeName: @Sendable () -> String = { ContainerNetworkList.defaultBridgeName }
        if let network = options.containerNetwork {
            let list = KeptContainerNetworkList(network, after: file)
            bridgeName = { list.bridgeName }
            items.append(list)
        }
        // Where nobody makes pods by CNI, a bridge of that name is somebody else's.
        if options.origin.isCluster || options.containerNetwork != nil {
            items += pods.map { PodBridge(pods: $0, bridgeName: bridgeName) }
            items.append(BridgeNetfilter(families: pods.map(\.family)))
        }
        return items
    }

    /// Takes away what an earlier start left in `subnet.env` where the cluster says that this node has no subnet: the
    /// plugin would give pods addresses that nobody routes here, and says without the file that it waits for twill.
    func withdrawSubnetFile() async {
        guard options.origin.isCluster, table.ownLease == nil, stage.desired == nil,
            let problem = table.conditions[Component(.lease)], problem.effect == .cutOff
        else { return }
        let path = options.lease.subnetFile
        let isRemoved = await onThread { unlink(path) == 0 }
        guard isRemoved else { return }
        logger.warning(.subnetFileRemoved, metadata: ["file": "\(path)", "detail": "\(problem.cause)"])
    }

    /// Tells whether device, routes, rules and `subnet.env` stand, where that is another answer than the last one.
    func tellWhetherItStands() async {
        guard let standingListener else { return }
        let stands =
            stage.isReady && !stage.standingItems.isEmpty && node.itemStatuses.areGood(stage.standingItems)
        guard stands != toldStands else { return }
        toldStands = stands
        await standingListener(stands)
    }
}
