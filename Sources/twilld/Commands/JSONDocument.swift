import FoundationEssentials

/// Prints a document for programs: JSON, its keys in order. Each has a `schema`, the version of its form.
func printDocument(_ document: some Encodable) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    print(String(decoding: try encoder.encode(document), as: UTF8.self))
}
