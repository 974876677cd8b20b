/// Which store a node or a command uses. A store's module has a value of this for each way to name one:
/// `StoreOptions.directory(path:)`.
public struct StoreOptions: Sendable, Equatable {
    private let location: any StoreLocation

    /// Makes options of what a store's module says.
    public init(_ location: any StoreLocation) { self.location = location }

    /// Opens the store; it connects at the first request.
    ///
    /// - Throws: `LeaseStoreError` where the options do not work, whatever the store says.
    @available(*, noasync, message: "it blocks: use onThread")
    public func open() throws(LeaseStoreError) -> any LeaseStore { try location.open() }

    /// What is given and has no effect, one sentence each.
    public var remarks: [String] { location.remarks }

    /// Whether both name the same store in the same way.
    public static func == (left: StoreOptions, right: StoreOptions) -> Bool {
        left.location.isSame(as: right.location)
    }
}

/// Where a store is, as an operator names it, and how to open it: the one thing that a store's module has to say of
/// itself.
public protocol StoreLocation: Sendable, Equatable {
    /// Opens the store; it connects at the first request. Files that it names may be read, so it may block.
    ///
    /// - Throws: `LeaseStoreError` where that is in vain, whatever the store says.
    @available(*, noasync, message: "it blocks: use onThread")
    func open() throws(LeaseStoreError) -> any LeaseStore

    /// What is given and has no effect, one sentence each.
    var remarks: [String] { get }
}

extension StoreLocation {
    fileprivate func isSame(as other: any StoreLocation) -> Bool { other as? Self == self }
}
