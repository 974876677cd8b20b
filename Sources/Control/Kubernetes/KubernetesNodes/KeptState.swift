internal import JSON

/// What was last known of a cluster, kept on disk for a start while the API server is away.
package struct KeptState: Sendable, Equatable {
    /// This node's name.
    package var nodeName: String
    /// When it was written, in seconds of the Unix epoch.
    package var written: Int
    /// The text of the network's configuration that was in effect; nil where none was.
    package var configuration: String?
    /// This node's object.
    package var own: NodeRecord?
    /// The other nodes of the network.
    package var nodes: [NodeRecord]

    /// Makes a state.
    package init(
        nodeName: String, written: Int = 0, configuration: String?, own: NodeRecord?, nodes: [NodeRecord]
    ) {
        self.nodeName = nodeName
        self.written = written
        self.configuration = configuration
        self.own = own
        self.nodes = nodes
    }

    private static let version = 1

    /// Reads what `text(keys:)` writes; nil for anything else.
    package init?(reading bytes: [UInt8], keys: AnnotationKeys) {
        self.init(nodeName: "", configuration: nil, own: nil, nodes: [])
        var version: Int?
        var cursor = JSONCursor(bytes)
        do throws(JSONError) {
            try cursor.eachMember { (cursor, key) throws(JSONError) in
                switch key {
                case "version": version = try cursor.integer()
                case "nodeName": nodeName = try cursor.text() ?? ""
                case "written": written = try cursor.integer() ?? 0
                case "configuration": configuration = try cursor.text()
                case "own": own = NodeRecord(try APIObject(&cursor, keys))
                case "nodes":
                    try cursor.eachElement { (cursor) throws(JSONError) in
                        if let node = NodeRecord(try APIObject(&cursor, keys)) { nodes.append(node) }
                    }
                default: break
                }
            }
            try cursor.end()
        } catch {
            return nil
        }
        guard version == Self.version, !nodeName.isEmpty else { return nil }
    }

    /// The state as JSON, with the nodes as the API has them, one a line.
    package func text(keys: AnnotationKeys) -> String {
        let head = [
            "\"version\":\(Self.version)", "\"nodeName\":\(nodeName.quoted)", "\"written\":\(written)",
            "\"configuration\":\(configuration?.quoted ?? "null")",
            "\"own\":\(own?.json(keys: keys) ?? "null")",
        ]
        let nodes = nodes.map { $0.json(keys: keys) }.joined(separator: ",\n")
        return "{\(head.joined(separator: ",\n")),\n\"nodes\":[\n\(nodes)\n]}\n"
    }
}
