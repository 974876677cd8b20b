import Addresses

/// Who has a thing open that twill wants, for the sentence that names it.
extension RunningProcess {
    /// The first process with a descriptor that is as `isMeant` says.
    private static func first(
        of processes: [RunningProcess], having isMeant: (OpenDescriptor) -> Bool
    ) -> RunningProcess? {
        processes.first { $0.descriptors.contains(where: isMeant) }
    }

    /// The process that has each of some sockets open, by the numbers of their inodes; nothing for those of which
    /// none is seen.
    @available(*, noasync, message: "it blocks: use onThread")
    public static func holders(ofSockets inodes: Set<UInt64>) -> [UInt64: RunningProcess] {
        var found: [UInt64: RunningProcess] = [:]
        for process in all {
            for inode in process.descriptors.lazy.compactMap(\.socketInode) where inodes.contains(inode) {
                found[inode] = process
            }
            if found.count == inodes.count { break }
        }
        return found
    }

    /// The process whose socket keeps `endpoint` from being bound; nil where none is seen: it is in another
    /// namespace, or has just ended.
    @available(*, noasync, message: "it blocks: use onThread")
    public static func holder(of endpoint: Endpoint, _ transport: SocketTable.Transport) -> RunningProcess? {
        var inodes: Set<UInt64> = []
        for table in SocketTable.tables(of: transport) {
            table.forEachRow { if $0.keeps(endpoint, of: transport) { inodes.insert($0.inode) } }
        }
        guard !inodes.isEmpty else { return nil }
        return first(of: all) { $0.socketInode.map(inodes.contains) ?? false }
    }

    /// The process that has the TUN device of that name open. Names are each network namespace's own: a process of
    /// another than the calling thread's is not meant.
    @available(*, noasync, message: "it blocks: use onThread")
    public static func holder(ofTunnel name: String) -> RunningProcess? {
        all.first { process in
            process.isInNetworkOfThisThread && process.descriptors.contains { $0.tunnelName == name }
        }
    }

    /// The first of `processes` that has a file open.
    @available(*, noasync, message: "it blocks: use onThread")
    public static func holder(ofFile file: FileIdentity, among processes: [RunningProcess]) -> RunningProcess?
    {
        first(of: processes) { $0.file == file }
    }
}
