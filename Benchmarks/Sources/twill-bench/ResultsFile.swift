import Foundation

extension Results {
    /// Reads `results.json`, or that of a folder.
    init(path: String) throws {
        let file = path.hasSuffix(".json") ? path : path + "/results.json"
        let data = try bytes(ofFile: file)
        do {
            self = try Results.decoder.decode(Results.self, from: data)
        } catch {
            throw decodingFailure(error, file, "results.json of twill-bench")
        }
        guard format == Results.currentFormat else {
            throw CommandError(
                description: "\(file) has format \(format), this twill-bench reads \(Results.currentFormat)")
        }
    }

    private static let decoder: JSONDecoder = {
        let decoder = JSONDecoder()
        decoder.dateDecodingStrategy = .iso8601
        decoder.nonConformingFloatDecodingStrategy = .convertFromString(
            positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
        return decoder
    }()

    /// Writes `results.json`, `report.md` and `report.html` into a folder of its own and returns the folder.
    ///
    /// - Parameter suffix: what tells runs of one command line apart, behind the folder's date.
    func write(under parent: String, reference: String, suffix: String = "") throws -> String {
        let formatter = DateFormatter()
        formatter.dateFormat = "yyyy-MM-dd-HHmmss"
        let folder = "\(parent)/\(formatter.string(from: machine.date))\(suffix)"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        encoder.dateEncodingStrategy = .iso8601
        encoder.nonConformingFloatEncodingStrategy = .convertToString(
            positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
        let summary = Summary(results: self, reference: reference)
        func write(_ data: Data, _ name: String) throws {
            try data.write(to: URL(fileURLWithPath: "\(folder)/\(name)"))
        }
        try write(encoder.encode(self), "results.json")
        try write(Data(MarkdownReport(summary: summary).text.utf8), "report.md")
        try write(Data(HTMLReport(summary: summary).text.utf8), "report.html")
        return folder
    }
}
