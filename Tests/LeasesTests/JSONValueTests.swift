import Testing

@testable import JSON
@testable import Leases

@Suite("JSON")
struct JSONValueTests {
    @Test("what is JSON") func values() {
        #expect(
            JSONValue(parsing: " [1, -2.5e1, \"a\\u0041\\n\\ud83d\\ude00\", true, false, null, {}] \n")
                == .array([
                    .integer(1), .number(-25), .string("aA\n😀"), .bool(true), .bool(false), .null,
                    .object([]),
                ]))
        // Half of a pair is the replacement character, as in Go; a number too large for an Int is none.
        #expect(
            JSONValue(parsing: #""\ud83d x \ude00\ud83d\u0041""#) == .string("\u{FFFD} x \u{FFFD}\u{FFFD}A"))
        #expect(JSONValue(parsing: "9223372036854775808") == .number(9223372036854775808))
        #expect(JSONValue(parsing: "1e999") == .number(.infinity))
        #expect(JSONValue(parsing: "-0") == .integer(0))
    }

    @Test(
        "what is not, with the place",
        arguments: [
            ("", "line 1, column 1: a value is needed, and there is the end"),
            ("{\"a\":1,}", "line 1, column 8: a key"),
            ("[1,]", "column 4"), ("[1 2]", "',' or ']'"), ("{a:1}", "a key in quotes"),
            ("{\n \"a\" 1}", "line 2, column 6"),
            ("01", "does not begin with 0"), ("1.", "a digit"), ("-", "a digit"), ("+1", "a value"),
            ("NaN", "a value"),
            ("\"a\nb\"", "a control character"), ("\"abc", "has no end"),
            ("\"\\x\"", "'\\' stands before 'x'"),
            ("\"\\u12g4\"", "four hexadecimal digits"), ("{} x", "more after the end"),
            ("// c\n1", "a value"),
            ("\u{FEFF}{}", "a value"), ("tru", "a value"),
        ])
    func errors(text: String, words: String) {
        let error = #expect(throws: JSONError.self) { try JSONValue(reading: text) }
        #expect(error?.description.contains(words) == true, "\(error?.description ?? "")")
    }

    @Test("depth and size have limits, and cost no stack") func limits() {
        #expect(JSONValue(parsing: String(repeating: "[", count: 100_000)) == nil)
        #expect(JSONValue(parsing: String(repeating: "{\"a\":", count: 100_000)) == nil)
        #expect(JSONValue(parsing: "[" + String(repeating: " ", count: 3 << 20) + "]") == nil)
        let deep = String(repeating: "[", count: 60) + String(repeating: "]", count: 60)
        #expect(JSONValue(parsing: deep) != nil)
    }

    @Test("keys in any case, the last one that is not null counts, on every node alike") func keys() {
        for _ in 0..<20 {
            let value = JSONValue(
                parsing: #"{"Network":"1","network":"2","NETWORK":null,"nETWORK":"3","Network":null}"#)
            #expect(value?["Network"]?.text == "3")
            #expect(value?["network"]?.text == "3")
        }
        #expect(JSONValue(parsing: "[]")?["a"] == nil)
    }

    @Test("a configuration with a key twice is refused before it is written, unknown keys are named")
    func remarks() throws {
        let twice = #expect(throws: NetworkConfigurationError.self) {
            try NetworkConfiguration.remarks(
                on: "{\"Network\":\"10.66.0.0/16\",\n \"Backend\":{\"Port\":1,\"port\":2}}")
        }
        #expect(
            twice?.description.contains("\"Backend.port\" stands twice, the second time at line 2, column 22")
                == true)
        let remarks = try NetworkConfiguration.remarks(
            on:
                "{\"Network\":\"10.66.0.0/16\",\"SubnetLn\":26,\n\"Backend\":{\"Type\":\"udp\",\"VNI\":1,\"\\u001b[2J\":2}}"
        )
        #expect(remarks.count == 3)
        #expect(remarks[0].contains("\"SubnetLn\" at line 1, column 27"))
        #expect(remarks[1].contains("\"Backend.VNI\" at line 2"))
        #expect(remarks[2].contains("\\u{1b}[2J"))
    }

    @Test(
        "networks that would cut a node off",
        arguments: [
            "0.0.0.0/1", "127.0.0.0/8", "127.64.0.0/16", "224.0.0.0/4", "169.254.0.0/16", "128.0.0.0/1",
            "255.0.0.0/8",
        ])
    func networks(network: String) {
        let error = #expect(throws: NetworkConfigurationError.self) {
            try NetworkConfiguration(parsing: "{\"Network\":\"\(network)\"}")
        }
        #expect(error?.description.contains("it must have no address of") == true)
    }

    @Test(
        "networks that Linux carries",
        arguments: ["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "240.0.0.0/8", "198.18.0.0/15"])
    func goodNetworks(network: String) throws {
        _ = try NetworkConfiguration(parsing: "{\"Network\":\"\(network)\"}")
    }

    @Test("what a store's texts do to a terminal is nothing") func printable() {
        let error = #expect(throws: NetworkConfigurationError.self) {
            try NetworkConfiguration(parsing: #"{"Network":"\u001b[2J"}"#)
        }
        #expect(error?.description.contains("\u{1b}") == false)
    }
}
