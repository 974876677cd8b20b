import CLinux
import Glibc
import Host

/// The plugin as a program: variables, standard input and output.
package enum PluginProgram {
    /// The most that is read, in bytes: what the reader of JSON takes, and one more, for which it says that it is
    /// too much.
    private static let inputLimit = 2 << 20 + 1

    /// Carries out what the process was started for: `install DIRECTORY`, or what the variables say.
    ///
    /// - Returns: the exit status.
    package static func run(_ arguments: [String]) -> Int32 {
        // Who reads the output may be gone; its end is no reason for this one's.
        signal(SIGPIPE, SIG_IGN)
        if arguments.dropFirst().first == "install" { return install(Array(arguments.dropFirst(2))) }
        let environment = variables()
        if environment["CNI_COMMAND"] == nil {
            print(
                """
                This is twill's CNI plugin, which takes the configuration of flannel's. A container runtime \
                calls it, and says by CNI_COMMAND what for; it speaks CNI \(CNIVersion.list).
                `twill-cni install DIRECTORY` puts it into a directory as twill-cni and as flannel.

                """, to: STDERR_FILENO)
        }
        let answer = Plugin.answer(environment: environment) { () throws(CNIError) in try input() }
        let isPrinted = print(answer.output, to: STDOUT_FILENO)
        return isPrinted ? answer.status : 1
    }

    private static func install(_ directories: [String]) -> Int32 {
        guard let directory = directories.first, directories.count == 1 else {
            print("twill-cni: install needs a directory, such as /opt/cni/bin\n", to: STDERR_FILENO)
            return 64
        }
        do throws(SystemError) {
            try Installation.install(into: directory)
        } catch {
            print("twill-cni: cannot install the plugin: \(error)\n", to: STDERR_FILENO)
            return 1
        }
        return 0
    }

    private static func variables() -> [String: String] {
        var variables: [String: String] = [:]
        var next = twill_environment()
        while let text = next?.pointee {
            let parts = String(cString: text).split(
                separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            // The first counts, as for getenv(3).
            if let key = parts.first.map(String.init), let value = parts.dropFirst().first,
                variables[key] == nil
            {
                variables[key] = String(value)
            }
            next = next?.advanced(by: 1)
        }
        return variables
    }

    private static func input() throws(CNIError) -> String {
        // Nobody types a configuration.
        guard isatty(STDIN_FILENO) == 0 else { return "" }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 16 << 10)
        while bytes.count < inputLimit {
            let count = read(STDIN_FILENO, &chunk, chunk.count)
            if count < 0 {
                let code = errno
                if code == EINTR { continue }
                throw CNIError(
                    .inputOutput, "cannot read the configuration: \(String(cString: strerror(code)))")
            }
            if count == 0 { break }
            bytes += chunk.prefix(count)
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    @discardableResult
    private static func print(_ text: String, to descriptor: Int32) -> Bool {
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { return false }
            rest = rest.dropFirst(count)
        }
        return true
    }
}
