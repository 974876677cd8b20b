import FoundationEssentials

/// The words that this process was started with, its own name left out.
enum GivenWords {
    /// From the kernel (`/proc/self/cmdline`, proc(5)), where `/proc` is mounted. Swift's own `CommandLine` finds them by
    /// walking back from `environ`, and finds none where a preloaded library has put another environment there: the
    /// daemon would run with defaults.
    static let all: [String] = {
        guard let file = FileManager.default.contents(atPath: "/proc/self/cmdline") else {
            return Array(CommandLine.arguments.dropFirst())
        }
        return words(in: file)
    }()

    /// - Parameter file: the words, each with a zero byte at its end.
    static func words(in file: some Sequence<UInt8>) -> [String] {
        let words = Array(file).split(separator: 0, omittingEmptySubsequences: false)
        return words.dropFirst().dropLast().map { String(decoding: $0, as: UTF8.self) }
    }
}
