import Testing

@testable import NodeDaemon

@Suite struct VersionTests {
    /// The linker gives every program a build ID; only `tools/package` writes a commit, and never into the tests.
    @Test func theLineSaysWhatIsKnown() throws {
        let build = try #require(Version.build)
        #expect(build.count >= 16)
        #expect(build.allSatisfy { $0.isHexDigit })
        #expect(Version.commit == nil)
        #expect(Version.line == "twilld \(Version.text), \(Version.configuration), build \(build)")
    }
}
