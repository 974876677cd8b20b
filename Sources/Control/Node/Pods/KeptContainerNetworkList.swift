import Glibc
import Health
import Host
import Netlink
import Reconciler
import Synchronization

/// Where the CNI list comes from, and where it is to be.
public struct ContainerNetworkOptions: Sendable, Hashable {
    /// The file that has the list, such as one of a mounted ConfigMap; where there is none,
    /// `ContainerNetworkList.standard` is written.
    public var source: String
    /// The directory that the container runtime reads.
    public var directory: String

    /// Names both.
    public init(source: String, directory: String) {
        self.source = source
        self.directory = directory
    }
}

/// The container runtime has the CNI list, and has it only once `subnet.env` stands: with the list the kubelet calls the
/// node ready and starts pods on it. The source is looked at with every resync; where it is no list, the one that was
/// written last stays. The list stays when the daemon stops.
public final class KeptContainerNetworkList: KeptItem {
    private let options: ContainerNetworkOptions
    private let subnetFile: KeptSubnetFile
    /// The list that was wanted last, for whoever goes by its bridge.
    private let wanted = Mutex(ContainerNetworkList.standard)

    /// Keeps the list after `subnetFile`, which stands before it among the items.
    public init(_ options: ContainerNetworkOptions, after subnetFile: KeptSubnetFile) {
        self.options = options
        self.subnetFile = subnetFile
    }

    private var path: String { "\(options.directory)/\(ContainerNetworkList.fileName)" }
    private var formerPath: String { "\(options.directory)/\(ContainerNetworkList.formerFileName)" }

    /// `file /etc/cni/net.d/10-flannel.conflist`.
    public var name: String { "file \(path)" }
    /// The list.
    public var component: Component { Component(.podNetwork, "CNI list") }
    /// The overlay works without it: only new pods need it.
    public var isEssential: Bool { false }
    /// Netlink tells nothing of files.
    public var needsResync: Bool { true }
    /// The bridge that pods are on, by the list that was read last.
    public var bridgeName: String { wanted.withLock { $0.bridgeName } }

    /// Says whether it is missing or has other contents, or one of the former name would be read in its place.
    ///
    /// - Throws: `ItemProblem` where a file cannot be read, or `subnet.env` does not stand yet.
    public func deviation(in _: NetworkState) throws -> String? {
        let list = try sourceList()
        wanted.withLock { $0 = list }
        let present = try read(path)
        if present == list.text {
            return ContainerNetworkList.isFormer(try read(formerPath))
                ? "\(formerPath), of before there were lists, would be read in its place" : nil
        }
        guard subnetFile.isInPlace else {
            throw ItemProblem(
                Problem(
                    .degraded,
                    "the CNI list \(path) waits for subnet.env: with it pods would be started that get no network",
                    remedy: "see what is said of subnet.env"))
        }
        return present == nil ? "missing" : "other contents"
    }

    /// Writes it, and removes one of the former name.
    ///
    /// - Throws: `ItemProblem` where the kernel refuses.
    public func update(in _: NetworkState, using _: RouteSocket) throws {
        do throws(SystemError) {
            try TextFile.replace(path, with: wanted.withLock { $0.text }, mode: 0o644)
            if ContainerNetworkList.isFormer(try TextFile.read(formerPath)),
                unlink(formerPath) != 0, errno != ENOENT
            {
                throw SystemError(formerPath, code: errno)
            }
        } catch {
            throw ItemProblem(
                Problem(
                    .degraded,
                    "cannot write the CNI list \(error); without it the kubelet starts no pods here",
                    remedy:
                        "mount the node's directory writable, or say with --cni-conf-dir=none that another program writes the list"
                ))
        }
    }

    /// The list that is to be written.
    private func sourceList() throws -> ContainerNetworkList {
        guard let text = try read(options.source) else { return .standard }
        do throws(ContainerNetworkListError) {
            return try ContainerNetworkList(parsing: text)
        } catch {
            throw ItemProblem(
                Problem(
                    .degraded, "the CNI list of \(options.source) \(error)",
                    remedy:
                        "correct it (in Kubernetes: the ConfigMap); until then the one that was written last stays"
                ))
        }
    }

    private func read(_ path: String) throws -> String? {
        do throws(SystemError) {
            return try TextFile.read(path)
        } catch {
            if error.code == ENOTDIR { return nil }
            throw ItemProblem(
                Problem(.degraded, "cannot read \(error)", remedy: "make it a readable file"))
        }
    }
}
