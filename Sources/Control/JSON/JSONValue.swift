/// A JSON text read without a schema (RFC 8259): members stand in the order in which they were written, so that
/// flannel's keys can be matched as Go matches them, whatever their case.
package enum JSONValue: Sendable, Equatable {
    case null
    case bool(Bool)
    case integer(Int)
    case number(Double)
    case string(String)
    case array([JSONValue])
    case object([Member])

    /// A key with its value, and at which byte of the text it stands.
    package struct Member: Sendable, Equatable {
        package var key: String
        package var value: JSONValue
        package var offset: Int

        /// Makes a member.
        package init(key: String, value: JSONValue, offset: Int) {
            self.key = key
            self.value = value
            self.offset = offset
        }
    }

    /// Parses a text; nil where it is no JSON.
    package init?(parsing text: String) { try? self.init(reading: text) }

    /// Parses a text.
    ///
    /// - Throws: what is wrong, and where.
    package init(reading text: String) throws(JSONError) {
        var reader = JSONReader(text)
        self = try reader.document()
    }

    /// The value of an object's member whose key is `key` in any case; nil for null, for no such member, and for what
    /// is no object. Of several the last one that is not null counts, as in Go.
    package subscript(key: String) -> JSONValue? {
        guard case .object(let members) = self else { return nil }
        let wanted = key.lowercased()
        return members.last { $0.value != .null && ($0.key == key || $0.key.lowercased() == wanted) }?.value
    }

    /// The text of a string; nil for anything else.
    package var text: String? {
        if case .string(let text) = self { text } else { nil }
    }
}

extension JSONValue: CustomStringConvertible {
    /// How an error message shows the value; objects and arrays in short.
    package var description: String {
        switch self {
        case .null: "null"
        case .bool(let value): "\(value)"
        case .integer(let value): "\(value)"
        case .number(let value): "\(value)"
        case .string(let value): "\"\(value)\""
        case .array: "an array"
        case .object: "an object"
        }
    }
}

/// Why a text is no JSON, and where.
package struct JSONError: Error, Equatable, CustomStringConvertible {
    /// A place in a text, both counted from 1; columns count bytes.
    package struct Place: Sendable, Equatable, CustomStringConvertible {
        package var line = 1
        package var column = 1
        package var description: String { "line \(line), column \(column)" }

        package init(offset: Int, in bytes: some Sequence<UInt8>) {
            for byte in bytes.prefix(offset) {
                if byte == UInt8(ascii: "\n") {
                    line += 1
                    column = 1
                } else {
                    column += 1
                }
            }
        }
    }

    package var place: Place
    package var reason: String
    package var description: String { "\(place): \(reason)" }
}

/// Reads one JSON text byte by byte.
private struct JSONReader {
    // The network's configuration is three levels deep, Go's own limit is 10,000. Each level takes some hundred bytes of
    // the stack of a thread that has 512 KiB at least.
    private static let depthLimit = 64
    // A configuration is below 1 KiB, a lease below 200 bytes; etcd takes requests of 1.5 MiB.
    private static let sizeLimit = 2 << 20

    private let bytes: [UInt8]
    private var position = 0
    private var depth = 0

    init(_ text: String) { bytes = Array(text.utf8) }

    mutating func document() throws(JSONError) -> JSONValue {
        guard bytes.count <= Self.sizeLimit else {
            throw error("the text is longer than \(Self.sizeLimit) bytes")
        }
        let value = try value()
        skipBlanks()
        guard position == bytes.count else { throw error("there is more after the end") }
        return value
    }

    private var current: UInt8? { position < bytes.count ? bytes[position] : nil }  // checked: so it is

    private func error(_ reason: String) -> JSONError {
        JSONError(place: JSONError.Place(offset: position, in: bytes), reason: reason)
    }

    private var found: String {
        guard let current else { return "the end" }
        return (0x21...0x7E).contains(current) ? "'\(Unicode.Scalar(current))'" : "byte \(current)"
    }

    private mutating func skipBlanks() {
        while let current, [0x20, 0x09, 0x0A, 0x0D].contains(current) { position &+= 1 }
    }

    private mutating func take(_ character: Unicode.Scalar) -> Bool {
        guard let current, UInt32(current) == character.value else { return false }
        position += 1
        return true
    }

    private mutating func value() throws(JSONError) -> JSONValue {
        skipBlanks()
        switch current {
        case UInt8(ascii: "{"): return try nested { (reader) throws(JSONError) in try reader.object() }
        case UInt8(ascii: "["): return try nested { (reader) throws(JSONError) in try reader.array() }
        case UInt8(ascii: "\""): return .string(try string())
        case let byte? where byte == UInt8(ascii: "-") || (0x30...0x39).contains(byte):
            return try number()
        default:
            for (word, value) in [("true", JSONValue.bool(true)), ("false", .bool(false)), ("null", .null)]
            where bytes.dropFirst(position).starts(with: word.utf8) {
                position &+= word.utf8.count
                return value
            }
            throw error("a value is needed, and there is \(found)")
        }
    }

    private mutating func nested(
        _ body: (inout JSONReader) throws(JSONError) -> JSONValue
    ) throws(JSONError) -> JSONValue {
        guard depth < Self.depthLimit else {
            throw error("it is nested deeper than \(Self.depthLimit) levels")
        }
        depth += 1
        defer { depth &-= 1 }
        position += 1
        return try body(&self)
    }

    private mutating func object() throws(JSONError) -> JSONValue {
        var members: [JSONValue.Member] = []
        skipBlanks()
        if take("}") { return .object(members) }
        repeat {
            skipBlanks()
            guard current == UInt8(ascii: "\"") else {
                throw error("a key in quotes is needed, and there is \(found)")
            }
            let start = position
            let key = try string()
            skipBlanks()
            guard take(":") else { throw error("':' is needed, and there is \(found)") }
            members.append(JSONValue.Member(key: key, value: try value(), offset: start))
            skipBlanks()
        } while take(",")
        guard take("}") else { throw error("',' or '}' is needed, and there is \(found)") }
        return .object(members)
    }

    private mutating func array() throws(JSONError) -> JSONValue {
        var elements: [JSONValue] = []
        skipBlanks()
        if take("]") { return .array(elements) }
        repeat {
            elements.append(try value())
            skipBlanks()
        } while take(",")
        guard take("]") else { throw error("',' or ']' is needed, and there is \(found)") }
        return .array(elements)
    }

    private mutating func number() throws(JSONError) -> JSONValue {
        let start = position
        _ = take("-")
        if !take("0"), !takeDigits() { throw error("a digit is needed, and there is \(found)") }
        var isWhole = true
        if take(".") {
            isWhole = false
            guard takeDigits() else { throw error("a digit is needed, and there is \(found)") }
        }
        if take("e") || take("E") {
            isWhole = false
            if !take("+") { _ = take("-") }
            guard takeDigits() else { throw error("a digit is needed, and there is \(found)") }
        }
        if let current, (0x30...0x39).contains(current) {
            throw error("a number does not begin with 0")
        }
        let text = String(decoding: bytes.prefix(position).dropFirst(start), as: UTF8.self)
        if isWhole, let integer = Int(text) { return .integer(integer) }
        // Beyond what an Int holds, and beyond a Double: infinity, which no rule takes.
        return .number(Double(text) ?? .infinity)
    }

    private mutating func takeDigits() -> Bool {
        let start = position
        while let current, (0x30...0x39).contains(current) { position &+= 1 }
        return position > start
    }

    private mutating func string() throws(JSONError) -> String {
        position += 1
        var text: [UInt8] = []
        while let current {
            switch current {
            case UInt8(ascii: "\""):
                position += 1
                return String(decoding: text, as: UTF8.self)
            case UInt8(ascii: "\\"):
                text += Array(String(try escaped()).utf8)
            case ..<0x20:
                throw error("a control character stands in a string")
            default:
                text.append(current)
                position += 1
            }
        }
        throw error("a string has no end")
    }

    /// What a backslash and the characters after it stand for. Half of a surrogate pair is U+FFFD, as in Go.
    private mutating func escaped() throws(JSONError) -> Unicode.Scalar {
        position += 1
        let simple: [UInt8: Unicode.Scalar] = [
            UInt8(ascii: "\""): "\"", UInt8(ascii: "\\"): "\\", UInt8(ascii: "/"): "/",
            UInt8(ascii: "b"): "\u{8}",
            UInt8(ascii: "f"): "\u{C}", UInt8(ascii: "n"): "\n", UInt8(ascii: "r"): "\r",
            UInt8(ascii: "t"): "\t",
        ]
        if let current, let scalar = simple[current] {
            position += 1
            return scalar
        }
        guard take("u") else { throw error("'\\' stands before \(found)") }
        let first = try hexadecimal()
        if let scalar = Unicode.Scalar(first) { return scalar }
        let afterFirst = position
        guard first < 0xDC00, take("\\"), take("u"), let second = try? hexadecimal(),
            (0xDC00..<0xE000).contains(second),
            let scalar = Unicode.Scalar(0x10000 &+ (first &- 0xD800) << 10 &+ (second &- 0xDC00))
        else {
            position = afterFirst
            return "\u{FFFD}"
        }
        return scalar
    }

    private mutating func hexadecimal() throws(JSONError) -> UInt32 {
        let digits = bytes.dropFirst(position).prefix(4)
        guard digits.count == 4,
            digits.allSatisfy({ Character(Unicode.Scalar($0)).isHexDigit && $0 < 0x80 }),
            let number = UInt32(String(decoding: digits, as: UTF8.self), radix: 16)
        else { throw error("four hexadecimal digits are needed after '\\u'") }
        position &+= 4
        return number
    }
}

extension JSONValue {
    /// The members of the object, and of the objects in it, that stand twice, keys compared whatever their case; each
    /// with its path, `Backend.Port`.
    package func duplicates(under path: String = "") -> [(path: String, offset: Int)] {
        guard case .object(let members) = self else { return [] }
        var seen: Set<String> = []
        var found: [(path: String, offset: Int)] = []
        for member in members {
            if !seen.insert(member.key.lowercased()).inserted {
                found.append((path + member.key, member.offset))
            }
            found += member.value.duplicates(under: path + member.key + ".")
        }
        return found
    }
}
