import CBuildStamp

/// What `twilld --version`, the status document and `twill_build_info` say of the program.
package enum Version {
    /// The release, by semantic versioning.
    package static let text = "0.1.0"

    /// The commit that the program was built from, with `-modified` behind it where files differed from it; nil where
    /// `tools/package` did not write it in.
    package static let commit: String? = {
        let commit = String(cString: twill_build_commit())
        return commit.isEmpty ? nil : commit
    }()

    /// The linker's build ID, which two programs share only where they are the same, in hexadecimal digits; nil where
    /// the linker made none. The debug symbols are found by it.
    package static let build: String? = {
        // SHA-1 has 20 bytes, which is what linkers make; the format has no limit.
        let bytes = [UInt8](unsafeUninitializedCapacity: 64) { buffer, count in
            count = buffer.baseAddress.map { twill_build_identifier($0, buffer.count) } ?? 0
        }
        guard !bytes.isEmpty else { return nil }
        return bytes.map { ($0 < 0x10 ? "0" : "") + String($0, radix: 16) }.joined()
    }()

    /// How it was compiled.
    #if DEBUG
        package static let configuration = "debug"
    #else
        package static let configuration = "release"
    #endif

    /// One line: `twilld 0.1.0, commit 0123456789ab, release, build 01234567…`; what is not known is left out.
    package static let line =
        (["twilld \(text)"]
        + [commit.map { "commit \($0)" }, configuration, build.map { "build \($0)" }]
        .compactMap(\.self)).joined(separator: ", ")
}
