import FoundationEssentials
import Testing

/// What is asked of the sources themselves, beside what the compiler and swift-format ask.
@Suite struct SourceTests {
    private static let root = String(#filePath.dropLast("/Tests/CommandTests/SourceTests.swift".count))
    /// Lines of a function, and of a file, at most; longer ones have a line before them, or in their head, that begins
    /// with `// long:` and says why.
    private static let functionLines = 70, fileLines = 500

    private static func sources() throws -> [(path: String, lines: [Substring])] {
        try ["Sources", "Tests", "Benchmarks/Sources", "Benchmarks/Benchmarks"].flatMap { folder in
            try FileManager.default.subpathsOfDirectory(atPath: "\(root)/\(folder)")
                .filter {
                    $0.hasSuffix(".swift") && !$0.hasSuffix(".pb.swift") && !$0.hasSuffix(".grpc.swift")
                }
                .map { path in
                    let text = try String(contentsOfFile: "\(root)/\(folder)/\(path)", encoding: .utf8)
                    return (
                        "\(folder)/\(path)", text.split(separator: "\n", omittingEmptySubsequences: false)
                    )
                }
        }
    }

    @Test func functionsAndFilesAreShort() throws {
        let begin = #/^( *)(?:@[A-Za-z]+(?:\([^)]*\))? )*(?:[a-z]+ )*(?:func |init[?(<]|deinit\b)/#
        let sources = try Self.sources()
        #expect(sources.count > 200)
        for (path, lines) in sources {
            if lines.count > Self.fileLines {
                #expect(
                    lines.prefix(40).contains { $0.hasPrefix("// long:") }, "\(path) has \(lines.count) lines"
                )
            }
            for (number, line) in lines.enumerated() {
                // A body begins at the end of a line, and ends with a brace that stands as far in as its declaration.
                guard let indent = line.firstMatch(of: begin)?.1,
                    let head = lines[number...].first(where: {
                        $0.hasSuffix("{") || $0.hasSuffix("}") || $0.isEmpty
                    }),
                    head.hasSuffix("{"), let end = lines[number...].firstIndex(of: indent + "}"),
                    end - number >= Self.functionLines
                else { continue }
                let isExplained = number > 0 && lines[number - 1].contains("// long:")
                #expect(isExplained, "\(path):\(number + 1): a function of \(end - number + 1) lines")
            }
        }
    }

    @Test func everyDecisionIsInTheirIndex() throws {
        let index = try String(contentsOfFile: "\(Self.root)/docs/adr/README.md", encoding: .utf8)
        let decisions = try FileManager.default.subpathsOfDirectory(atPath: "\(Self.root)/docs/adr")
            .filter { $0.hasPrefix("0") }
        #expect(decisions.count > 35)
        for decision in decisions {
            #expect(index.contains("(\(decision))"), "docs/adr/README.md lacks \(decision)")
        }
    }
}
