package import JSON

/// What counts of anything that an API server says: a Node, the rest of a list, a Status, a Pod. Everything else is
/// passed over, and what is absent, or of another type than it should be, is nil.
package struct APIObject: Sendable, Equatable {
    package var kind: String?
    package var name: String?
    package var uid: String?
    package var resourceVersion: String?
    /// `metadata.continue`: there are more pages.
    package var continueToken: String?
    /// Those of the daemon's own names; nil where the object has none at all.
    package var annotations = NodeAnnotations()
    /// `spec.podCIDR` and `spec.podCIDRs`, each once.
    package var podCIDRs: [String] = []
    /// `spec.nodeName`, of a Pod.
    package var nodeName: String?
    /// The status of the condition `NetworkUnavailable`: `True`, `False`, `Unknown`; nil where there is none.
    package var networkUnavailable: String?
    /// Of a Status.
    package var code: Int?
    package var reason: String?
    package var message: String?
    package var retryAfterSeconds: Int?
    /// The reasons of `details.causes`.
    package var causes: [String] = []

    /// Reads an object.
    ///
    /// - Throws: where the bytes are no JSON.
    package init(reading bytes: [UInt8], keys: AnnotationKeys) throws(JSONError) {
        var cursor = JSONCursor(bytes)
        try read(&cursor, keys)
        try cursor.end()
    }

    init(_ cursor: inout JSONCursor, _ keys: AnnotationKeys) throws(JSONError) { try read(&cursor, keys) }

    private mutating func read(_ cursor: inout JSONCursor, _ keys: AnnotationKeys) throws(JSONError) {
        try cursor.eachMember { (cursor, key) throws(JSONError) in
            switch key {
            case "kind": kind = try cursor.text()
            case "metadata": try readMetadata(&cursor, keys)
            case "spec": try readSpec(&cursor)
            case "status": try readStatus(&cursor)
            case "code": code = try cursor.integer()
            case "reason": reason = try cursor.text()
            case "message": message = try cursor.text()
            case "details": try readDetails(&cursor)
            default: break
            }
        }
    }

    private mutating func readMetadata(
        _ cursor: inout JSONCursor, _ keys: AnnotationKeys
    ) throws(JSONError) {
        try cursor.eachMember { (cursor, key) throws(JSONError) in
            switch key {
            case "name": name = try cursor.text()
            case "uid": uid = try cursor.text()
            case "resourceVersion": resourceVersion = try cursor.text()
            case "continue": continueToken = try cursor.text()
            case "annotations":
                try cursor.eachMember { (cursor, key) throws(JSONError) in
                    if let field = keys.field(of: key) { annotations[field] = try cursor.text() }
                }
            default: break
            }
        }
    }

    private mutating func readSpec(_ cursor: inout JSONCursor) throws(JSONError) {
        var found: [String] = []
        try cursor.eachMember { (cursor, key) throws(JSONError) in
            switch key {
            case "podCIDR": if let cidr = try cursor.text() { found.append(cidr) }
            case "podCIDRs":
                try cursor.eachElement { (cursor) throws(JSONError) in
                    if let cidr = try cursor.text() { found.append(cidr) }
                }
            case "nodeName": nodeName = try cursor.text()
            default: break
            }
        }
        for cidr in found where !cidr.isEmpty && !podCIDRs.contains(cidr) { podCIDRs.append(cidr) }
    }

    private mutating func readStatus(_ cursor: inout JSONCursor) throws(JSONError) {
        try cursor.eachMember { (cursor, key) throws(JSONError) in
            guard key == "conditions" else { return }
            try cursor.eachElement { (cursor) throws(JSONError) in
                var (type, status): (String?, String?)
                try cursor.eachMember { (cursor, key) throws(JSONError) in
                    if key == "type" { type = try cursor.text() }
                    if key == "status" { status = try cursor.text() }
                }
                if type == "NetworkUnavailable" { networkUnavailable = status }
            }
        }
    }

    private mutating func readDetails(_ cursor: inout JSONCursor) throws(JSONError) {
        try cursor.eachMember { (cursor, key) throws(JSONError) in
            if key == "retryAfterSeconds" { retryAfterSeconds = try cursor.integer() }
            guard key == "causes" else { return }
            try cursor.eachElement { (cursor) throws(JSONError) in
                try cursor.eachMember { (cursor, key) throws(JSONError) in
                    if key == "reason", let reason = try cursor.text() { causes.append(reason) }
                }
            }
        }
    }
}
