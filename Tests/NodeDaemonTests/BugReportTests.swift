import FoundationEssentials
import Glibc
import Testing

@testable import NodeDaemon

@Suite("A report without secrets")
struct BugReportTests {
    @Test(
        "passwords, tokens and users go, the rest stays",
        arguments: [
            (
                "twilld --etcd-password=abc --etcd-username u",
                "twilld --etcd-password=(redacted) --etcd-username u"
            ),
            ("--etcd-password abc -v 1", "--etcd-password (redacted) -v 1"),
            ("FLANNELD_ETCD_PASSWORD=\"a b\" x", "FLANNELD_ETCD_PASSWORD=\"(redacted)\" x"),
            (#"{"token": "eyJ.x-y", "a": 1}"#, #"{"token": "(redacted)", "a": 1}"#),
            ("Authorization: Bearer eyJ.x-y", "Authorization: Bearer (redacted)"),
            (
                "etcd http://u:p@10.0.0.1:2379,https://v:q@h:1/x",
                "etcd http://(redacted)@10.0.0.1:2379,https://(redacted)@h:1/x"
            ),
            ("set a password, or a token.", "set a password, or a token."),
            ("http://10.0.0.1:2379 /coreos.com/network", "http://10.0.0.1:2379 /coreos.com/network"),
            (
                "a\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----\nb",
                "a\n(redacted)\n\n\n\nb"
            ),
        ])
    func secrets(_ text: String, _ without: String) { #expect(Redaction.redacted(text) == without) }

    @Test("tar unpacks it") func archive() throws {
        let path = "/tmp/twill-test-report-\(getpid()).tar"
        defer { unlink(path) }
        let long = String(repeating: "x", count: 1_500)
        let bytes = TarArchive.bytes(
            [
                .init(name: "a.txt", text: "one\n"), .init(name: "empty", text: ""),
                .init(name: "long", text: long),
            ],
            in: "report", unixTime: 1_000_000_000)
        #expect(bytes.count % 512 == 0)
        try Data(bytes).write(to: URL(filePath: path))
        func output(_ command: String) throws -> String {
            let program = try #require(popen(command, "r"))
            var text: [UInt8] = []
            var buffer = [UInt8](repeating: 0, count: 4_096)
            while case let count = fread(&buffer, 1, buffer.count, program), count > 0 {
                text += buffer[..<count]
            }
            #expect(pclose(program) == 0)
            return String(decoding: text, as: UTF8.self)
        }
        #expect(try output("tar tf \(path)") == "report/a.txt\nreport/empty\nreport/long\n")
        #expect(try output("tar xOf \(path)") == "one\n" + long)
    }

    @Test("what a capture asks for is read as it was written, and anything else refused") func requests()
        throws
    {
        var request = CaptureRequest()
        request.isOfDropsAlone = true
        request.host = .v4(.init("10.66.2.7")!)
        request.peer = .v6(.init("fd00::1")!)
        request.form = .pcapng
        request.snapLength = 100
        let query = try #require(request.uri.split(separator: "?").last)
        #expect(try CaptureRequest(query: query) == request)
        #expect(request.filter.host == [10, 66, 2, 7] && request.filter.peer.count == 16)
        #expect(try CaptureRequest(query: "") == CaptureRequest())
        for query in ["x", "host=1", "as=xml", "bytes=-1", "peer=", "drop=1", "host=10.66.2.7=", "&dropped"] {
            #expect(throws: CaptureRequest.Malformed.self) { try CaptureRequest(query: query[...]) }
        }
    }
}
