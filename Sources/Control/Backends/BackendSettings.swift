internal import JSON

/// The object that stands under `Backend` in a network's configuration.
package struct BackendSettings: Sendable {
    private let object: JSONValue

    init(_ object: JSONValue) { self.object = object }

    /// The whole number under `key`; nil where there is none, or null.
    ///
    /// - Throws: where it is something else.
    package func integer(_ key: String) throws(BackendError) -> Int? {
        guard let value = object[key] else { return nil }
        guard case .integer(let number) = value else {
            throw BackendError(key: "Backend.\(key)", value, rule: "a whole number is needed")
        }
        return number
    }

    /// Whether `key` is true; nil where there is none, or null.
    ///
    /// - Throws: where it is something else.
    package func bool(_ key: String) throws(BackendError) -> Bool? {
        guard let value = object[key] else { return nil }
        guard case .bool(let flag) = value else {
            throw BackendError(key: "Backend.\(key)", value, rule: "true or false is needed")
        }
        return flag
    }

    /// The text under `key`; nil where there is none, or null.
    ///
    /// - Throws: where it is something else.
    package func text(_ key: String) throws(BackendError) -> String? {
        guard let value = object[key] else { return nil }
        guard let text = value.text else {
            throw BackendError(key: "Backend.\(key)", value, rule: "text is needed")
        }
        return text
    }

    /// The text under `key`, whose value no message repeats; nil where there is none, or null.
    ///
    /// - Throws: where it is something else.
    package func secret(_ key: String) throws(BackendError) -> String? {
        guard let value = object[key] else { return nil }
        guard let text = value.text else { throw BackendError("Backend.\(key) is no text") }
        return text
    }

    /// A number under `key` that is within `range`, or 0, which means flannel's value.
    ///
    /// - Parameters:
    ///   - key: the member of `Backend`.
    ///   - range: the numbers that are taken.
    ///   - rule: what is needed, for the operator who wrote another number.
    /// - Returns: nil where there is none, or 0.
    /// - Throws: where it is no number, or out of range.
    package func integer(
        _ key: String, within range: ClosedRange<Int>, rule: String
    ) throws(BackendError) -> Int? {
        guard let number = try integer(key), number != 0 else { return nil }
        guard range.contains(number) else {
            throw BackendError(key: "Backend.\(key)", .integer(number), rule: rule)
        }
        return number
    }
}
