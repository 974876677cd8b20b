/// What `twilld --version` and the status document say.
enum Version {
    /// The release, by semantic versioning.
    static let text = "0.1.0"
}
