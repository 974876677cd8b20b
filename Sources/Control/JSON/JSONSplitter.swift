/// Cuts JSON that comes in pieces of any size into the objects that are wanted of it, so that no more than one of
/// them is in memory at a time.
package struct JSONSplitter {
    /// Which objects are wanted.
    package enum Shape: Sendable, Equatable {
        /// Each of a sequence, with or without ends of lines between them.
        case sequence
        /// Each element of the array under this key of the one outer object.
        case elements(of: String)
    }

    /// The longest object, in bytes: an API server takes none of more than 1.5 MiB by itself.
    package static let objectLimit = 4 << 20
    /// The longest rest of the outer object.
    package static let restLimit = 1 << 20

    private let shape: Shape
    private var depth = 0
    private var isInString = false
    private var isEscaped = false
    private var isInArray = false
    /// At which depth the object began that is being collected; nil where none is.
    private var start: Int?
    private var object: [UInt8] = []
    private var key: [UInt8] = []

    /// With `elements(of:)`: the outer object without the elements.
    package private(set) var rest: [UInt8] = []

    /// Makes a splitter that has seen nothing.
    package init(_ shape: Shape) {
        self.shape = shape
        if case .elements(let name) = shape { key = Array("\"\(name)\"".utf8) }
    }

    /// Whether everything that began has ended.
    package var isComplete: Bool { depth == 0 && !isInString }

    /// Takes a piece in.
    ///
    /// - Returns: the objects that end in it.
    /// - Throws: where the text is no such thing, or one of its parts is larger than the limit. Nothing more can then
    ///   be taken in.
    package mutating func take(_ piece: [UInt8]) throws(JSONStreamError) -> [[UInt8]] {
        var objects: [[UInt8]] = []
        for byte in piece {
            try take(byte, into: &objects)
        }
        return objects
    }

    private mutating func take(_ byte: UInt8, into objects: inout [[UInt8]]) throws(JSONStreamError) {
        if isInString {
            if isEscaped {
                isEscaped = false
            } else if byte == UInt8(ascii: "\\") {
                isEscaped = true
            } else if byte == UInt8(ascii: "\"") {
                isInString = false
            }
            return try keep(byte)
        }
        switch byte {
        case UInt8(ascii: "{"), UInt8(ascii: "["):
            try begin(byte)
        case UInt8(ascii: "}"), UInt8(ascii: "]"):
            guard depth > 0 else { throw JSONStreamError("it ends before it begins") }
            depth &-= 1
            if isInArray, depth == 1 { isInArray = false }
            try keep(byte)
            if start == depth {
                objects.append(object)
                object = []
                start = nil
            }
        case UInt8(ascii: "\""):
            guard depth > 0 else { throw JSONStreamError("a string stands where an object is needed") }
            isInString = true
            try keep(byte)
        case 0x20, 0x0A, 0x0D, 0x09:
            if depth > 0 { try keep(byte) }
        default:
            guard depth > 0 else {
                throw JSONStreamError("byte \(byte) stands where an object is needed")
            }
            // The commas between elements, and elements that are no objects, belong to nothing.
            if start != nil || !(isInArray && depth == 2) { try keep(byte) }
        }
    }

    private mutating func begin(_ byte: UInt8) throws(JSONStreamError) {
        var opensArray = false
        switch shape {
        case .sequence:
            if depth == 0 {
                guard byte == UInt8(ascii: "{") else { throw JSONStreamError("an array is no object") }
                start = 0
            }
        case .elements:
            if depth == 0 {
                guard byte == UInt8(ascii: "{"), rest.isEmpty else {
                    throw JSONStreamError("one object is needed")
                }
            } else if depth == 1, byte == UInt8(ascii: "["), start == nil, restEndsWithKey {
                opensArray = true
            } else if isInArray, depth == 2, start == nil {
                start = 2
            }
        }
        depth += 1
        try keep(byte)
        if opensArray { isInArray = true }
    }

    private var restEndsWithKey: Bool {
        func withoutBlanks(_ bytes: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
            var bytes = bytes
            while let last = bytes.last, [0x20, 0x0A, 0x0D, 0x09].contains(last) { bytes = bytes.dropLast() }
            return bytes
        }
        let colon = withoutBlanks(rest[...])
        guard colon.last == UInt8(ascii: ":") else { return false }
        return withoutBlanks(colon.dropLast()).suffix(key.count).elementsEqual(key)
    }

    private mutating func keep(_ byte: UInt8) throws(JSONStreamError) {
        if start != nil {
            guard object.count < Self.objectLimit else {
                throw JSONStreamError("an object is longer than \(Self.objectLimit) bytes")
            }
            object.append(byte)
        } else if !isInArray {
            guard rest.count < Self.restLimit else {
                throw JSONStreamError("what is beside the objects is longer than \(Self.restLimit) bytes")
            }
            rest.append(byte)
        }
    }
}

/// Why a stream is not what it should be.
package struct JSONStreamError: Error, Sendable, Equatable, CustomStringConvertible {
    /// What is wrong, as a clause.
    package let description: String

    init(_ description: String) { self.description = description }
}
