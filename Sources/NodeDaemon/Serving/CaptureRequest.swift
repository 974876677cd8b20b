import Addresses
import Counters
import FoundationEssentials
import Health

/// What a capture is asked for, as the query of its request has it: `dropped=1&host=10.66.2.7&as=text`.
package struct CaptureRequest: Sendable, Equatable {
    /// The path that captures are asked for at, on the status socket alone.
    package static let path = "/capture"

    /// How packets are told.
    package enum Form: String, Sendable, CaseIterable {
        /// A pcapng file.
        case pcapng
        /// A line each, for a terminal.
        case text
        /// A JSON object in a line each.
        case json
    }

    /// Only packets that are dropped.
    package var isOfDropsAlone = false
    /// Only packets from or to this inner address.
    package var host: IPAddress?
    /// Only packets from or to this address on the underlay.
    package var peer: IPAddress?
    /// How packets are told.
    package var form = Form.text
    /// Bytes that are copied of each packet at most; nil for as many as there is room for.
    package var snapLength: Int?

    /// Asks for all packets, a line each.
    package init() {}

    /// Reads a request's query.
    ///
    /// - Throws: what of it is not understood.
    init(query: Substring) throws(Malformed) {
        for part in query.split(separator: "&") {
            let pair = part.split(separator: "=", maxSplits: 1)
            guard pair.count == 2, let name = pair.first, let value = pair.last else { throw Malformed(part) }
            switch name {
            case "dropped": isOfDropsAlone = value == "1"
            case "host": host = try Self.address(value)
            case "peer": peer = try Self.address(value)
            case "as":
                guard let form = Form(rawValue: String(value)) else { throw Malformed(part) }
                self.form = form
            case "bytes":
                guard let bytes = Int(value), bytes >= 0 else { throw Malformed(part) }
                snapLength = bytes
            default: throw Malformed(part)
            }
        }
    }

    private static func address(_ text: Substring) throws(Malformed) -> IPAddress {
        if let address = IPv4Address(text) { return .v4(address) }
        if let address = IPv6Address(text) { return .v6(address) }
        throw Malformed(text)
    }

    /// The request's path with its query.
    package var uri: String {
        var parts = ["as=\(form.rawValue)"]
        if isOfDropsAlone { parts.append("dropped=1") }
        if let host { parts.append("host=\(host)") }
        if let peer { parts.append("peer=\(peer)") }
        if let snapLength { parts.append("bytes=\(snapLength)") }
        return Self.path + "?" + parts.joined(separator: "&")
    }

    /// What the workers are told.
    var filter: CaptureFilter {
        var filter = CaptureFilter()
        filter.isOfDropsAlone = isOfDropsAlone
        filter.host = host.map(Self.bytes) ?? []
        filter.peer = peer.map(Self.bytes) ?? []
        if let snapLength { filter.snapLength = snapLength }
        return filter
    }

    private static func bytes(_ address: IPAddress) -> [UInt8] {
        switch address {
        case .v4(let address): withUnsafeBytes(of: address.networkBytes) { Array($0) }
        case .v6(let address):
            withUnsafeBytes(of: address.high.bigEndian) { Array($0) }
                + withUnsafeBytes(of: address.low.bigEndian) { Array($0) }
        }
    }

    /// A part of a query that is not understood.
    struct Malformed: Error, Equatable {
        let description: String

        init(_ part: Substring) { description = "\"\(String(part).printable)\" is not understood" }
    }
}
