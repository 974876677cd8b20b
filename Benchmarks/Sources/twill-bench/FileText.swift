import Foundation

/// The bytes of a file that somebody named; what stands in the way is said in the words of the system.
func bytes(ofFile path: String) throws(CommandError) -> Data {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else {
        throw CommandError(description: "\(path): \(String(cString: strerror(errno)))")
    }
    defer { close(descriptor) }
    var data = Data()
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while true {
        let count = read(descriptor, &buffer, buffer.count)
        guard count >= 0 else {
            throw CommandError(description: "\(path): \(String(cString: strerror(errno)))")
        }
        guard count > 0 else { return data }
        data.append(contentsOf: buffer[..<count])
    }
}

/// Why a JSON file is not what it should be: the place in it, and what is wrong there.
///
/// - Parameters:
///   - path: the file, for the reader.
///   - what: what it should be: "results.json of twill-bench".
func decodingFailure(_ error: any Error, _ path: String, _ what: String) -> CommandError {
    func place(_ keys: [any CodingKey]) -> String {
        let words = keys.map { key in key.intValue.map { "[\($0)]" } ?? ".\(key.stringValue)" }
        return words.isEmpty ? "" : " at " + String(words.joined().drop { $0 == "." })
    }
    let reason =
        switch error {
        case DecodingError.keyNotFound(let key, let context):
            "\"\(key.stringValue)\" is missing\(place(context.codingPath))"
        case DecodingError.typeMismatch(_, let context), DecodingError.valueNotFound(_, let context):
            "a value of another kind is expected\(place(context.codingPath))"
        case DecodingError.dataCorrupted(let context) where !context.codingPath.isEmpty:
            "an unknown value\(place(context.codingPath))"
        default: "it is not JSON"
        }
    return CommandError(description: "\(path) is no \(what): \(reason)")
}
