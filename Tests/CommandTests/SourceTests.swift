import FoundationEssentials
import Testing

/// What is asked of the sources themselves, beside what the compiler and swift-format ask.
@Suite struct SourceTests {
    private static let root = String(#filePath.dropLast("/Tests/CommandTests/SourceTests.swift".count))
    /// Lines of a function, and of a file, at most; longer ones have a line before them, or in their head, that
    /// begins with `// long:` and says why.
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

    /// Where calls that block stand without saying so: what runs on a thread of its own by other means.
    private static let ownThreads = [
        // What the reconciler and the firewall do is reached through `NodeNetwork`, an actor on a `ControlThread`.
        "Sources/Control/Kernel/Firewall/", "Sources/Control/Kernel/Netlink/",
        "Sources/Control/Kernel/Reconciler/", "Sources/Control/Node/Files/KeptSubnetFile.swift",
        "Sources/Control/Node/Pods/KeptContainerNetworkList.swift",
        // An actor on a `ControlThread`.
        "Sources/Control/Kubernetes/KubernetesClient/ClusterFiles.swift",
        // A program of one thread, which runs no task.
        "Sources/Control/CNI/",
        // Packet threads, and what opens their devices through `onThread`.
        "Sources/DataPlane/",
        // Looks at one process; whoever walks over all of them is declared to block.
        "Sources/Common/Processes/",
        // Threads of their own: of the log, of the watch, of what ends the process.
        "Sources/NodeDaemon/Log/LogWriter.swift", "Sources/NodeDaemon/Daemon/Heartbeats.swift",
        "Sources/twilld/Commands/Run.swift",
    ]

    /// What waits for a disk, another process, or time.
    private static var blockingCalls: Regex<Substring> {
        #/
        (?:^|[^.\w]) (?:Glibc\.)?
            (?:open|openat|opendir|readdir|stat|lstat|fstatat|unlink|unlinkat|rename|renameat|mkdir|mkdirat|link|readlink
            |flock|fsync|futimens|connect|usleep|sleep|posix_spawn|waitpid|getaddrinfo|access) \((?!\))
        | \bFileManager\b | \bcontentsOfFile: | \bcontentsOf:\s*URL | \bTextFile\.(?!split) | \bChildProcess\(
        | \bLockHolder\. | \bRunningProcess\.(?:holder|all) | \bSubnetFileValues\(path: | \bLeftovers\( | \breadLine\(
        /#
    }

    /// A declaration that blocks says so by `noasync`, so that the compiler keeps it off the threads that run tasks;
    /// what is private and synchronous need not, being called by such declarations of its file.
    @Test func whatBlocksIsKeptOffTheThreadsOfTasks() throws {
        let begin = #/^( *)(?:@\w+(?:\([^)]*\))? )*((?:[a-z]+ )*)(?:func |init(?=[?(<])|var (?=.*\{$))/#
        let blockingCalls = Self.blockingCalls
        var seen = 0
        for (path, lines) in try Self.sources() where path.hasPrefix("Sources/") {
            if Self.ownThreads.contains(where: { path.hasPrefix($0) }) { continue }
            for (number, line) in lines.enumerated() {
                guard let head = line.firstMatch(of: begin) else { continue }
                let end =
                    line.hasSuffix("}") ? number : lines[number...].firstIndex(of: Substring(head.1 + "}"))
                guard let end else { continue }
                let body = Self.withoutThreads(lines[number...end])
                guard let call = body.firstMatch(of: blockingCalls) else { continue }
                seen += 1
                let effects = lines[number...end].prefix { !$0.hasSuffix("{") } + [line]
                let isAsynchronous = effects.contains { $0.contains(#/\basync\b/#) }
                let isPrivate = line.contains("private ") && !isAsynchronous
                let isDeclared = lines[max(0, number - 2)..<number].contains { $0.contains("noasync") }
                #expect(
                    isPrivate || isDeclared, "\(path):\(number + 1) blocks (\(call.0)), and does not say so")
            }
        }
        #expect(seen > 40)
    }

    /// A body without what it gives to `onThread` or to the queue of a store.
    private static func withoutThreads(_ lines: ArraySlice<Substring>) -> String {
        var kept: [Substring] = []
        var end: String?
        for line in lines {
            if let closing = end {
                if line.hasPrefix(closing) { end = nil }
                continue
            }
            if line.contains(#/\b(?:onThread|queue\.run|SystemThread\.start\(.*\)) \{/#) {
                if line.hasSuffix("}") { continue }
                end = String(line.prefix { $0 == " " }) + "}"
                continue
            }
            if !line.contains(#/^ *\/\//#) { kept.append(line) }
        }
        return kept.joined(separator: "\n")
    }

    /// What others call and what throws says what it throws, and when.
    @Test func whatThrowsSaysWhat() throws {
        let begin =
            #/^ *(?:@\w+(?:\([^)]*\))? )*(?:[a-z]+ )*(?:public|package) (?:[a-z]+ )*(?:func |init(?=[?(<]))/#
        var seen = 0
        for (path, lines) in try Self.sources() where path.hasPrefix("Sources/") {
            for (number, line) in lines.enumerated() where line.contains(begin) {
                let last = lines[number...].firstIndex { $0.hasSuffix("{") || $0.hasSuffix("}") } ?? number
                var depth = 0
                // Without parameters, of which some may throw.
                let effects = lines[number...last].joined(separator: " ").filter { character in
                    if character == "(" { depth += 1 }
                    if character == ")" { depth -= 1 }
                    return depth == 0
                }
                guard effects.contains(#/\) (?:async )?throws\b/#) else { continue }
                seen += 1
                let text = lines[..<number].reversed().prefix { $0.contains(#/^ *(?:\/\/\/|@)/#) }
                #expect(
                    text.contains { $0.contains("hrows") },
                    "\(path):\(number + 1) does not say what it throws")
            }
        }
        #expect(seen > 80)
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

    /// A compiler finds what a merge left undecided in sources; in pages a reader did.
    @Test func noPageHoldsBothSidesOfAMerge() throws {
        let pages =
            try FileManager.default.contentsOfDirectory(atPath: Self.root)
            + FileManager.default.subpathsOfDirectory(atPath: "\(Self.root)/docs").map { "docs/\($0)" }
        let markers = ["<<<<<<< ", ">>>>>>> "]
        for page in pages where page.hasSuffix(".md") {
            let text = try String(contentsOfFile: "\(Self.root)/\(page)", encoding: .utf8)
            let lines = text.split(separator: "\n").filter { line in markers.contains { line.hasPrefix($0) } }
            #expect(lines.isEmpty, "\(page): \(lines)")
        }
        #expect(pages.contains("ARCHITECTURE.md") && pages.contains("docs/operations.md"))
    }
}
