import CLibyaml
internal import JSON

/// A YAML text, of which JSON is a part, as the value that it stands for.
enum YAML {
    // A kubeconfig is four levels deep, and below 100 KiB with all its certificates.
    private static let depthLimit = 32
    private static let nodeLimit = 20_000

    /// Reads the first document of a text; null for none.
    ///
    /// - Throws: what is wrong, and where, as a clause. An alias is refused: a few lines could stand for gigabytes.
    static func value(reading bytes: [UInt8]) throws(KubernetesOptionsError) -> JSONValue {
        let parser = UnsafeMutablePointer<yaml_parser_t>.allocate(capacity: 1)
        defer { parser.deallocate() }
        guard yaml_parser_initialize(parser) == 1 else { throw KubernetesOptionsError("there is no memory") }
        defer { yaml_parser_delete(parser) }
        let result = bytes.withUnsafeBufferPointer { buffer in
            yaml_parser_set_input_string(parser, buffer.baseAddress, buffer.count)
            return Result { () throws(KubernetesOptionsError) in
                var reader = Reader(parser: parser)
                return try reader.document()
            }
        }
        return try result.get()
    }

    private struct Reader {
        let parser: UnsafeMutablePointer<yaml_parser_t>
        var nodes = 0

        /// What libyaml says next, with what of it counts.
        enum Event {
            case scalar(String, isPlain: Bool)
            case sequence
            case mapping
            case end
            case alias
            case other
            case streamEnd
        }

        mutating func next() throws(KubernetesOptionsError) -> (Event, line: Int) {
            var event = yaml_event_t()
            guard yaml_parser_parse(parser, &event) == 1 else {
                let problem = parser.pointee.problem.map { String(cString: $0) } ?? "it is no YAML"
                throw error(problem, line: Int(clamping: parser.pointee.problem_mark.line))
            }
            defer { yaml_event_delete(&event) }
            let line = Int(clamping: event.start_mark.line)
            switch event.type {
            case YAML_SCALAR_EVENT:
                let text = UnsafeRawBufferPointer(
                    start: twill_yaml_scalar(&event), count: twill_yaml_scalar_length(&event))
                let isPlain = twill_yaml_scalar_is_plain(&event) != 0
                return (.scalar(String(decoding: text, as: UTF8.self), isPlain: isPlain), line)
            case YAML_SEQUENCE_START_EVENT: return (.sequence, line)
            case YAML_MAPPING_START_EVENT: return (.mapping, line)
            case YAML_SEQUENCE_END_EVENT, YAML_MAPPING_END_EVENT, YAML_DOCUMENT_END_EVENT: return (.end, line)
            case YAML_ALIAS_EVENT: return (.alias, line)
            case YAML_STREAM_END_EVENT: return (.streamEnd, line)
            default: return (.other, line)
            }
        }

        func error(_ problem: String, line: Int) -> KubernetesOptionsError {
            KubernetesOptionsError("line \(line &+ 1): \(problem)")
        }

        mutating func document() throws(KubernetesOptionsError) -> JSONValue {
            while true {
                let (event, line) = try next()
                switch event {
                case .other: continue
                case .streamEnd, .end: return .null
                default: return try value(event, line: line, depth: 0)
                }
            }
        }

        private mutating func value(
            _ event: Event, line: Int, depth: Int
        ) throws(KubernetesOptionsError) -> JSONValue {
            nodes += 1
            guard nodes <= YAML.nodeLimit, depth <= YAML.depthLimit else {
                throw error("it is nested too deeply, or too long", line: line)
            }
            switch event {
            case .scalar(let text, let isPlain): return scalar(text, isPlain: isPlain)
            case .sequence:
                var elements: [JSONValue] = []
                while true {
                    let (event, line) = try next()
                    if case .end = event { return .array(elements) }
                    elements.append(try value(event, line: line, depth: depth &+ 1))
                }
            case .mapping:
                var members: [JSONValue.Member] = []
                while true {
                    let (event, line) = try next()
                    if case .end = event { return .object(members) }
                    guard case .scalar(let key, _) = event else {
                        throw error("a key is no text", line: line)
                    }
                    let (next, nextLine) = try next()
                    let value = try value(next, line: nextLine, depth: depth &+ 1)
                    members.append(JSONValue.Member(key: key, value: value, offset: line))
                }
            case .alias: throw error("an alias stands there, and aliases are not read", line: line)
            case .other, .end, .streamEnd: throw error("a value is needed", line: line)
            }
        }

        private func scalar(_ text: String, isPlain: Bool) -> JSONValue {
            guard isPlain else { return .string(text) }
            switch text {
            case "", "~", "null", "Null", "NULL": return .null
            case "true", "True", "TRUE": return .bool(true)
            case "false", "False", "FALSE": return .bool(false)
            // Numbers stay texts: a token may look like one.
            default: return .string(text)
            }
        }
    }
}
