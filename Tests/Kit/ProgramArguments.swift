import FoundationEssentials
import Glibc

/// The command line of a program that runs a lab: `--name value` words. A wrong one ends it with status 64.
public struct ProgramArguments {
    private let usage: String
    private var words: [String]

    /// Takes the words of this process.
    public init(usage: String) {
        self.usage = usage
        words = Array(CommandLine.arguments.dropFirst())
        if words.contains("-h") || words.contains("--help") {
            print(usage)
            exit(0)
        }
    }

    /// Takes the last value of an option; nil where it is not there.
    public mutating func take(_ name: String) -> String? { takeAll(name).last }

    /// Takes every value of an option.
    public mutating func takeAll(_ name: String) -> [String] {
        var values: [String] = []
        while let place = words.firstIndex(of: name) {
            guard place + 1 < words.count else { end("\(name) needs a value") }
            values.append(words[place + 1])
            words.removeSubrange(place...place + 1)
        }
        return values
    }

    /// Takes a number; nil where the option is not there.
    public mutating func number(_ name: String, in range: ClosedRange<Int>) -> Int? {
        guard let word = take(name) else { return nil }
        guard let value = Int(word), range.contains(value) else {
            end("\(name) \(word): a number from \(range.lowerBound) to \(range.upperBound)")
        }
        return value
    }

    /// Ends the program where a word is left.
    public func expectNoMore() { if let word = words.first { end("\(word) is no option") } }

    /// Ends the program.
    public func end(_ words: String) -> Never {
        complain("\(words)\n\(usage)")
        exit(64)
    }

    /// Ends the program with status 77 where it may make no network namespaces, and with 64 where there is no daemon.
    ///
    /// - Parameter daemon: its path.
    public func expectRights(daemon: String) {
        guard geteuid() == 0 else {
            complain("network namespaces and TUN devices need root")
            exit(77)
        }
        guard access(daemon, X_OK) == 0 else {
            complain("there is no twilld at \(daemon); swift build -c release")
            exit(64)
        }
    }
}

/// Writes a line to the standard output at once, also where that is a pipe.
public func say(_ line: String) {
    print(line)
    fflush(nil)
}

/// Writes a line to the standard error.
public func complain(_ line: String) {
    fflush(nil)
    let bytes = Array((line + "\n").utf8)
    _ = write(STDERR_FILENO, bytes, bytes.count)
}

extension String {
    /// The text with blanks before it, up to a width in characters.
    public func right(_ width: Int) -> String { String(repeating: " ", count: max(0, width - count)) + self }

    /// The text with blanks behind it, up to a width in characters.
    public func left(_ width: Int) -> String { self + String(repeating: " ", count: max(0, width - count)) }
}

extension Duration {
    /// In seconds, with one digit behind the point.
    public var inSeconds: String {
        let tenths = Int((self / .milliseconds(100)).rounded())
        return "\(tenths / 10).\(tenths % 10)"
    }
}
