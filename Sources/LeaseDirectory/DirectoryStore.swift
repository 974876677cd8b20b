public import Leases

/// The embedded store: a directory on one machine or on a shared file system.
public struct DirectoryStore {
    /// Opens the store at `path`; makes the directory where it is missing.
    public init(path: String) throws(LeaseStoreError) { fatalError() }
}
