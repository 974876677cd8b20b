import Foundation

/// Where the harness finds what it needs beside itself: in the checkout that it was built from, or in the folder where
/// `tools/package` put everything.
struct Installation {
    /// The checkout; nil where the harness is a package's.
    let checkout: String?
    /// The script that makes the nodes.
    let lab: String
    /// The folder of the candidates that come as files.
    let candidates: String
    /// The daemon that is measured unless another is named.
    let twilld: String
    /// The folder that results go into.
    let results: String

    static let current = Installation(executable: sibling("."), source: #filePath)

    /// - Parameters:
    ///   - executable: the folder of the running program.
    ///   - source: this file, when the program was compiled.
    init(executable folder: String, source: String) {
        if FileManager.default.isExecutableFile(atPath: folder + "/lab") {
            checkout = nil
            lab = folder + "/lab"
            candidates = folder + "/candidates"
            twilld = "/usr/bin/twilld"
            // Whoever runs it finds them where he stands.
            results = "results"
        } else {
            let root = "/" + source.split(separator: "/").dropLast(4).joined(separator: "/")
            checkout = root
            lab = root + "/tools/lab"
            candidates = root + "/Benchmarks/candidates"
            twilld = root + "/.build/release/twilld"
            results = root + "/results"
        }
    }
}
