import FoundationEssentials
import Glibc
import NetworkNamespaces
import Testing

@testable import NodeDaemon
@testable import twilld

/// The completion of command lines, asked of the shells themselves.
@Suite struct CompletionTests {
    /// What bash offers for a command line with the cursor at its end.
    private func offers(_ line: String, in directory: String = "/") throws -> [String] {
        // The words as readline cuts them: `=` stands alone.
        var words = line.replacing("=", with: " = ").split(separator: " ").map(String.init)
        if line.hasSuffix(" ") { words.append("") }
        let script = """
            shopt -s extglob
            compopt() { :; }
            source <('\(RunningDaemon.binary)' completion bash)
            cd '\(directory)'
            COMP_LINE='\(line)' COMP_POINT=\(line.utf8.count) COMP_CWORD=\(words.count - 1)
            COMP_WORDS=(\(words.map { "'\($0)'" }.joined(separator: " ")))
            function_name=$(complete -p twilld | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
            "$function_name" twilld '\(words.last ?? "")' '\(words.dropLast().last ?? "")'
            printf '%s\\n' "${COMPREPLY[@]}"
            """
        let file = "/tmp/twill-test-completion-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
        try Data(script.utf8).write(to: URL(filePath: file))
        defer { try? FileManager.default.removeItem(atPath: file) }
        return try execute("bash --norc \(file)").split(separator: "\n").map(String.init)
    }

    @Test func commands() throws {
        #expect(try offers("twilld sta") == ["status"])
        #expect(try offers("twilld lease re").sorted() == ["release", "reserve"])
        #expect(try offers("twilld completion ").sorted() == ["bash", "fish", "zsh"])
    }

    /// flanneld's command lines name no `run`, use one dash or two, and `=`.
    @Test(arguments: ["twilld --ifa", "twilld -ifa", "twilld run --ifa", "twilld --ip-masq -ifa"])
    func flagsWithoutRun(line: String) throws {
        #expect(try offers(line).sorted() == ["--iface", "--iface-can-reach", "--iface-regex"])
    }

    @Test(arguments: [
        "twilld --engine u", "twilld --engine=u", "twilld -engine=u", "twilld -v=1 --engine u",
        "twilld run --engine=u",
    ])
    func valuesOfAFlag(line: String) throws { #expect(try offers(line) == ["uring"]) }

    @Test func everyValueWhereNothingIsTyped() throws {
        #expect(try offers("twilld --engine=").sorted() == ["auto", "mmsg", "uring"])
    }

    @Test func interfaces() throws {
        #expect(try offers("twilld --iface=l").contains("lo"))
        #expect(try offers("twilld check --iface ").contains("lo"))
    }

    @Test func filesAndDirectories() throws {
        let directory = "/tmp/twill-test-completion-files-\(getpid())"
        try FileManager.default.createDirectory(
            atPath: directory + "/network", withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        try Data().write(to: URL(filePath: directory + "/net.json"))
        #expect(try offers("twilld network set n", in: directory).sorted() == ["net.json", "network"])
        #expect(try offers("twilld --config=n", in: directory).sorted() == ["net.json", "network"])
        #expect(try offers("twilld --lease-dir n", in: directory) == ["network"])
    }

    /// The scripts of the other shells have what was added to ArgumentParser's.
    @Test func additionsAreInPlace() {
        #expect(Completion.Shell.zsh.script.contains("functions -c _twilld _twilld_of_all_commands"))
        #expect(Completion.Shell.fish.script.contains("functions -c __twilld_tokens __twilld_given_tokens"))
    }
}
