/// What `twilld --version` and the status document say.
package enum Version {
    /// The release, by semantic versioning.
    package static let text = "0.1.0"
}
