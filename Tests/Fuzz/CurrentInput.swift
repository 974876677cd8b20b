import Glibc

/// The input that is being run, kept where a signal handler can print it: a trap leaves nothing else to ask.
enum CurrentInput {
    private static let capacity = 1 << 17
    nonisolated(unsafe) private static let bytes = UnsafeMutablePointer<UInt8>.allocate(capacity: capacity)
    nonisolated(unsafe) private static var byteCount = 0
    nonisolated(unsafe) private static var run: (name: String, seed: UInt64?, number: Int) = ("", nil, 0)

    /// Prints the input when the program ends by a trap.
    static func install() {
        for signal in [SIGILL, SIGTRAP, SIGSEGV, SIGBUS, SIGABRT, SIGFPE] {
            Glibc.signal(signal) { number in
                let report = "\nended by signal \(number)\n" + CurrentInput.report() + "\n"
                _ = report.utf8CString.withUnsafeBufferPointer { write(2, $0.baseAddress, $0.count - 1) }
                Glibc.signal(number, SIG_DFL)
                raise(number)
            }
        }
    }

    static func set(_ input: [UInt8], name: String, seed: UInt64?, number: Int) {
        byteCount = min(input.count, capacity)
        input.withUnsafeBufferPointer { source in
            if let start = source.baseAddress { bytes.update(from: start, count: byteCount) }
        }
        run = (name, seed, number)
    }

    /// The input in hexadecimal digits, and the commands that repeat it.
    static func report() -> String {
        let digits = Array("0123456789abcdef".utf8)
        var hex: [UInt8] = []
        for index in 0..<byteCount {
            hex += [digits[Int(bytes[index] >> 4)], digits[Int(bytes[index] & 15)]]
        }
        let input = String(decoding: hex, as: UTF8.self)
        let command = "swift run twill-fuzz --target \(run.name)"
        let withAll = run.seed.map {
            "\nwith all that came before: \(command) --seed \($0) --executions \(run.number)"
        }
        return "input \(input)\nagain: \(command) --input \(input)" + (withAll ?? "")
    }
}
