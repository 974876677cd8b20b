import JSON
import Testing

/// JSON as Go writes it: what the delegates of flannel's plugin have always been given.
@Suite struct EncodingTests {
    @Test(
        "values, and what Go's json.Marshal makes of them after json.Unmarshal into an interface",
        arguments: [
            ("null", "null"), (" [ true , false ] ", "[true,false]"), ("{}", "{}"), ("[]", "[]"),
            (#"{"b":1,"a":{"d":2,"c":3},"B":0}"#, #"{"B":0,"a":{"c":3,"d":2},"b":1}"#),
            (#"{"a":1,"a":2}"#, #"{"a":2}"#),
            (
                #""\u0001\u001f\b\f\n\r\t\"\\\/<>&\u2028\u2029\u007f""#,
                #""\u0001\u001f\b\f\n\r\t\"\\/\u003c\u003e\u0026\u2028\u2029"# + "\u{7F}\""
            ),
            (#""é😀\ud800""#, "\"é😀\u{FFFD}\""),
            ("9223372036854775807", "9223372036854775807"), ("-5", "-5"), ("1.0", "1"), ("-1.5", "-1.5"),
            ("0.1", "0.1"), ("100.25", "100.25"), ("1e3", "1000"), ("1e20", "100000000000000000000"),
            ("1e21", "1e+21"), ("1.25e22", "1.25e+22"), ("0.000001", "0.000001"), ("0.0000001", "1e-7"),
            ("1.5e-10", "1.5e-10"), ("123456789012345680000", "123456789012345680000"), ("0.0", "0"),
            ("5e-324", "5e-324"), ("1.7976931348623157e308", "1.7976931348623157e+308"),
            ("12345.678", "12345.678"),
            ("1e999", "1e999"), ("-1e999", "-1e999"),
        ])
    func values(_ text: String, _ encoded: String) {
        #expect(JSONValue(parsing: text)?.encoded == encoded)
        #expect(JSONValue(parsing: encoded)?.encoded == encoded)
    }

    @Test("keys are sorted by bytes, not by letters")
    func order() {
        #expect(
            JSONValue(parsing: #"{"é":1,"z":2,"Z":3,"":4,"ab":5,"a":6}"#)?.encoded
                == #"{"":4,"Z":3,"a":6,"ab":5,"z":2,"é":1}"#)
    }
}
