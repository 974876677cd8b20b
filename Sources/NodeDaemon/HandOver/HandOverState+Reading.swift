// Whoever takes over reads a state while packets wait, and before anything else in its process: so by a plain parser. Swift's own
// decoder asks the runtime of each type whether it is one of a few others, and each such question is a walk over all that the
// program's types conform to, the first time.

import JSON

/// Why a text is no state.
struct UnreadableState: Error {}

extension HandOverState {
    /// The state whose bytes were written.
    ///
    /// - Throws: where it can't be read as such.
    init(reading bytes: [UInt8]) throws {
        let members = try Members(JSONValue(reading: String(decoding: bytes, as: UTF8.self)))
        version = try members.required("version")
        build = try members.required("build")
        tunnel = try Tunnel(members.object("tunnel"))
        underlay = try Place(members.object("underlay"))
        engine = try members.optional("engine")
        acceptsAnySource = try members.required("acceptsAnySource")
        subnet = try members.optional("subnet")
        subnetIPv6 = try members.optional("subnetIPv6")
        mtu = try members.required("mtu")
        peers = try members.array("peers").map { try Peer(Members($0)) }
        otherCounts = try members.optional("otherCounts")
        counters = try members.optional("counters")
        histograms = try members.optional("histograms")
        socketDrops = try members.optional("socketDrops")
        queueDrops = try members.optional("queueDrops")
        pathMTUs = try members.optional("pathMTUs")
        node = try Node(members.object("node"))
    }
}

extension HandOverState.Tunnel {
    fileprivate init(_ members: Members) throws {
        name = try members.required("name")
        address = try members.optional("address")
        addressIPv6 = try members.optional("addressIPv6")
        offloads = try members.required("offloads")
        workers = try members.required("workers")
    }
}

extension HandOverState.Place {
    fileprivate init(_ members: Members) throws {
        address = try members.required("address")
        port = try members.required("port")
    }
}

extension HandOverState.Peer {
    fileprivate init(_ members: Members) throws {
        subnet = try members.optional("subnet")
        subnetIPv6 = try members.optional("subnetIPv6")
        address = try members.required("address")
        port = try members.required("port")
        takesBursts = try members.required("takesBursts")
        counts = try members.optional("counts")
    }
}

extension HandOverState.Node {
    fileprivate init(_ members: Members) throws {
        subnetFile = try members.required("subnetFile")
        stateDirectory = try members.required("stateDirectory")
        identity = try members.optional("identity")
    }
}

/// The members of an object, by their exact names.
private struct Members {
    private let members: [JSONValue.Member]

    init(_ value: JSONValue) throws {
        guard case .object(let members) = value else { throw UnreadableState() }
        self.members = members
    }

    private func value(_ name: String) -> JSONValue? {
        members.last { $0.key == name && $0.value != .null }?.value
    }

    func object(_ name: String) throws -> Members {
        guard let value = value(name) else { throw UnreadableState() }
        return try Members(value)
    }

    func array(_ name: String) throws -> [JSONValue] {
        guard case .array(let values) = value(name) else { throw UnreadableState() }
        return values
    }

    func required<Value: StateValue>(_ name: String) throws -> Value {
        guard let value: Value = try optional(name) else { throw UnreadableState() }
        return value
    }

    func optional<Value: StateValue>(_ name: String) throws -> Value? {
        guard let value = value(name) else { return nil }
        guard let read = Value(value) else { throw UnreadableState() }
        return read
    }
}

/// What a member of a state may be; nil where the JSON is something else.
private protocol StateValue {
    init?(_ value: JSONValue)
}

extension String: StateValue {
    fileprivate init?(_ value: JSONValue) {
        guard case .string(let text) = value else { return nil }
        self = text
    }
}

extension Bool: StateValue {
    fileprivate init?(_ value: JSONValue) {
        guard case .bool(let bool) = value else { return nil }
        self = bool
    }
}

extension FixedWidthInteger {
    fileprivate init?(number value: JSONValue) {
        switch value {
        case .integer(let number): self.init(exactly: number)
        // What is larger than Int.max.
        case .number(let number): self.init(exactly: number)  // checked: nil for what does not fit
        default: return nil
        }
    }
}

extension Int: StateValue { fileprivate init?(_ value: JSONValue) { self.init(number: value) } }
extension UInt16: StateValue { fileprivate init?(_ value: JSONValue) { self.init(number: value) } }
extension UInt32: StateValue { fileprivate init?(_ value: JSONValue) { self.init(number: value) } }
extension UInt64: StateValue { fileprivate init?(_ value: JSONValue) { self.init(number: value) } }

extension Array: StateValue where Element: StateValue {
    fileprivate init?(_ value: JSONValue) {
        guard case .array(let values) = value else { return nil }
        self = []
        reserveCapacity(values.count)
        for value in values {
            guard let element = Element(value) else { return nil }
            append(element)
        }
    }
}

extension Dictionary: StateValue where Key == String, Value: StateValue {
    fileprivate init?(_ value: JSONValue) {
        guard case .object(let members) = value else { return nil }
        self = [:]
        for member in members {
            guard let element = Value(member.value) else { return nil }
            self[member.key] = element
        }
    }
}
