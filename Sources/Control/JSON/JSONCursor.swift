/// Reads one JSON text from its beginning to its end and makes values of those alone that are asked for: of a Node
/// of 13 kB, a few hundred bytes. What is passed over is looked at no closer than its end needs.
package struct JSONCursor {
    private let bytes: [UInt8]
    private var position = 0

    /// Makes a cursor at the beginning of a text.
    package init(_ bytes: [UInt8]) { self.bytes = bytes }

    /// Reads the object that stands here. `body` is called for each member and reads the value with the cursor that
    /// it is given, or leaves it, which passes over it. What is no object is passed over.
    ///
    /// - Throws: where the text is no JSON, or what `body` throws.
    package mutating func eachMember(
        _ body: (inout JSONCursor, String) throws(JSONError) -> Void
    ) throws(JSONError) {
        guard peek() == UInt8(ascii: "{") else { return try skip() }
        position += 1
        if take(UInt8(ascii: "}")) { return }
        repeat {
            guard peek() == UInt8(ascii: "\"") else { throw error("a key in quotes is needed") }
            let key = try string()
            guard take(UInt8(ascii: ":")) else { throw error("':' is needed") }
            let start = position
            try body(&self, key)
            if position == start { try skip() }
        } while take(UInt8(ascii: ","))
        guard take(UInt8(ascii: "}")) else { throw error("',' or '}' is needed") }
    }

    /// Reads the array that stands here; `body` as in `eachMember`. What is no array is passed over.
    ///
    /// - Throws: where the text is no JSON, or what `body` throws.
    package mutating func eachElement(
        _ body: (inout JSONCursor) throws(JSONError) -> Void
    ) throws(JSONError) {
        guard peek() == UInt8(ascii: "[") else { return try skip() }
        position += 1
        if take(UInt8(ascii: "]")) { return }
        repeat {
            let start = position
            try body(&self)
            if position == start { try skip() }
        } while take(UInt8(ascii: ","))
        guard take(UInt8(ascii: "]")) else { throw error("',' or ']' is needed") }
    }

    /// The string that stands here; nil for anything else, which is passed over.
    ///
    /// - Throws: where the text is no JSON.
    package mutating func text() throws(JSONError) -> String? {
        guard peek() == UInt8(ascii: "\"") else {
            try skip()
            return nil
        }
        return try string()
    }

    /// The whole number that stands here; nil for anything else, which is passed over.
    ///
    /// - Throws: where the text is no JSON.
    package mutating func integer() throws(JSONError) -> Int? {
        _ = peek()
        let start = position
        try skip()
        return Int(String(decoding: bytes[start..<position], as: UTF8.self))  // checked: skip only goes on
    }

    /// Passes over the value that stands here.
    ///
    /// - Throws: where the text ends before the value does.
    package mutating func skip() throws(JSONError) {
        var depth = 0
        repeat {
            switch peek() {
            case UInt8(ascii: "{"), UInt8(ascii: "["):
                depth += 1
                position += 1
            case UInt8(ascii: "}"), UInt8(ascii: "]"):
                guard depth > 0 else { throw error("a value is needed") }
                depth &-= 1
                position += 1
            case UInt8(ascii: "\""):
                try skipString()
            case UInt8(ascii: ","), UInt8(ascii: ":"):
                guard depth > 0 else { throw error("a value is needed") }
                position += 1
            case nil:
                throw error("a value has no end")
            case let byte?
            where (0x30...0x39).contains(byte)
                || [UInt8(ascii: "-"), UInt8(ascii: "t"), UInt8(ascii: "f"), UInt8(ascii: "n")].contains(byte):
                skipWord()
            default:
                throw error("a value is needed")
            }
        } while depth > 0
    }

    /// That nothing follows but blanks.
    ///
    /// - Throws: where something does.
    package mutating func end() throws(JSONError) {
        if peek() != nil { throw error("there is more after the end") }
    }

    // MARK: Bytes

    /// The next byte that is no blank.
    private mutating func peek() -> UInt8? {
        while position < bytes.count {
            let byte = bytes[position]  // checked: position is below the count, and never negative
            if byte != 0x20, byte != 0x0A, byte != 0x0D, byte != 0x09 { return byte }
            position &+= 1
        }
        return nil
    }

    private mutating func take(_ byte: UInt8) -> Bool {
        guard peek() == byte else { return false }
        position += 1
        return true
    }

    /// Passes over a number, or `true`, `false`, `null`.
    private mutating func skipWord() {
        while position < bytes.count {
            switch bytes[position] {  // checked: below the count
            case UInt8(ascii: ","), UInt8(ascii: "}"), UInt8(ascii: "]"), UInt8(ascii: ":"),
                UInt8(ascii: "\""),
                UInt8(ascii: "{"), UInt8(ascii: "["), ...0x20:
                return
            default:
                position &+= 1
            }
        }
    }

    private mutating func skipString() throws(JSONError) {
        position += 1
        while position < bytes.count {
            switch bytes[position] {  // checked: below the count
            case UInt8(ascii: "\""):
                position += 1
                return
            case UInt8(ascii: "\\"): position &+= 2
            default: position &+= 1
            }
        }
        throw error("a string has no end")
    }

    private mutating func string() throws(JSONError) -> String {
        let start = position
        try skipString()
        // checked: skipString went on over two bytes at least
        let quoted = bytes[start..<position]
        let inside = quoted.dropFirst().dropLast()
        guard inside.contains(UInt8(ascii: "\\")) else { return String(decoding: inside, as: UTF8.self) }
        return try JSONValue(reading: String(decoding: quoted, as: UTF8.self)).text ?? ""
    }

    private func error(_ reason: String) -> JSONError {
        JSONError(place: JSONError.Place(offset: position, in: bytes), reason: reason)
    }
}
