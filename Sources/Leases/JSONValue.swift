import FoundationEssentials

/// A JSON text read without a schema: flannel's keys are matched whatever their case, and unknown ones are
/// left alone.
enum JSONValue: Decodable, Equatable {
    case null
    case bool(Bool)
    case integer(Int)
    case number(Double)
    case string(String)
    case array([JSONValue])
    case object([String: JSONValue])

    /// Tries what lease values hold most first: each miss costs a thrown error.
    init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if container.decodeNil() {
            self = .null
        } else if let value = try? container.decode(String.self) {
            self = .string(value)
        } else if let value = try? container.decode(Int.self) {
            self = .integer(value)
        } else if let value = try? container.decode(Bool.self) {
            self = .bool(value)
        } else if let value = try? container.decode(Double.self) {
            self = .number(value)
        } else if let members = try? container.decode([String: JSONValue].self) {
            self = .object(members)
        } else {
            self = .array(try container.decode([JSONValue].self))
        }
    }

    /// Parses a text; nil where it is no JSON.
    init?(parsing text: String) {
        let decoder = JSONDecoder()
        let data = Data(text.utf8)
        if let members = try? decoder.decode([String: JSONValue].self, from: data) {
            self = .object(members)
        } else if let value = try? decoder.decode(JSONValue.self, from: data) {
            self = value
        } else {
            return nil
        }
    }

    /// The member of an object whose key is `key` in any case; nil for null, for no such member, and for what
    /// is no object.
    subscript(key: String) -> JSONValue? {
        guard case .object(let members) = self else { return nil }
        let value = members[key] ?? members.first { $0.key.lowercased() == key.lowercased() }?.value
        return value == .null ? nil : value
    }

    /// The text of a string; nil for anything else.
    var text: String? {
        if case .string(let text) = self { text } else { nil }
    }
}

extension JSONValue: CustomStringConvertible {
    /// How an error message shows the value; objects and arrays in short.
    var description: String {
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
