/// A version of the specification that the plugin speaks: those of flannel's plugin, and 1.1.0.
package enum CNIVersion: String, Sendable, CaseIterable, Comparable, CustomStringConvertible {
    case v0_1_0 = "0.1.0"
    case v0_2_0 = "0.2.0"
    case v0_3_0 = "0.3.0"
    case v0_3_1 = "0.3.1"
    case v0_4_0 = "0.4.0"
    case v1_0_0 = "1.0.0"
    case v1_1_0 = "1.1.0"

    /// The one that is answered with where the caller's is not known.
    package static let newest = v1_1_0

    /// The first version that has CHECK.
    static let firstWithCheck = v0_4_0
    /// The first version that has STATUS and GC.
    static let firstWithStatus = v1_1_0

    package static func < (left: CNIVersion, right: CNIVersion) -> Bool {
        left.rawValue.utf8.lexicographicallyPrecedes(right.rawValue.utf8)
    }

    package var description: String { rawValue }

    /// All of them, for messages.
    static var list: String { allCases.map(\.rawValue).joined(separator: ", ") }
}
