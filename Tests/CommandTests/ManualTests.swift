import FoundationEssentials
import Glibc
import NetworkNamespaces
import Testing

@testable import NodeDaemon
@testable import twilld

/// The manual pages that `packaging/manual` makes of what the program says of itself, held against `--help`.
@Suite struct ManualTests {
    private static let root = String(#filePath.dropLast("/Tests/CommandTests/ManualTests.swift".count))

    /// The flags of a help text, or of a page without its markup.
    private static func flags(_ text: String) -> Set<String> {
        Set(text.matches(of: #/(?m)^\s*(?:-\w, )?(--[a-z][a-z0-9_-]*)(?=[ ,\n]|$)/#).map { String($0.1) })
    }

    @Test func everyPageHasTheFlagsOfItsCommandAndNoOthers() throws {
        let folder = "/tmp/twill-test-manual-\(getpid())"
        defer { try? FileManager.default.removeItem(atPath: folder) }
        try execute(
            "SOURCE_DATE_EPOCH=1700000000 '\(Self.root)/packaging/manual' '\(RunningDaemon.binary)' 8 \(folder)"
        )
        let pages = try FileManager.default.contentsOfDirectory(atPath: folder).sorted()
        #expect(pages.contains("twilld.8") && pages.contains("twilld-lease-list.8"))
        // One for each command, which the program's own help names.
        let commands = pages.map { $0.dropLast(2).split(separator: "-").dropFirst().joined(separator: " ") }
        for command in Twilld.configuration.subcommands.compactMap({ $0.configuration.commandName }) {
            #expect(commands.contains(command == "docker-opts" ? "docker opts" : command), "\(command)")
        }
        for (page, words) in zip(pages, commands) {
            let command = words == "docker opts" ? "docker-opts" : words
            let help = try execute("COLUMNS=400 '\(RunningDaemon.binary)' \(command) --help")
            let source = try String(contentsOfFile: "\(folder)/\(page)", encoding: .utf8)
            let text = source.replacing("\\fB", with: "").replacing("\\fR", with: "").replacing(
                "\\fI", with: ""
            ).replacing("\\-", with: "-")
            #expect(Self.flags(text) == Self.flags(help), "\(page)")
            #expect(source.contains("\"2023\\-11\\-14\"") || source.contains("\"2023-11-14\""), "\(page)")
            // roff has nothing to complain of.
            let complaints = try execute("groff -man -Tutf8 -ww -z \(folder)/\(page) 2>&1")
            #expect(complaints == "", "\(page)")
        }
    }
}
