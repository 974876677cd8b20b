import JSON

/// Why a call of the plugin failed, as the runtime is told: a JSON object on the standard output, exit status 1.
package struct CNIError: Error, Sendable, Equatable {
    /// The codes of the specification (CNI 1.1.0, section 5), and from 100 on twill's own.
    package enum Code: Int, Sendable {
        /// The version of the configuration, or an operation that it does not have.
        case version = 1
        /// A variable of the environment is missing or wrong.
        case environment = 4
        /// A file or a stream failed.
        case inputOutput = 5
        /// What was read is no JSON, or a field of it has another type than it must.
        case decoding = 6
        /// The configuration is JSON and makes no sense.
        case configuration = 7
        /// It will do later, without a change of what was asked.
        case tryAgain = 11
        /// STATUS: no ADD can succeed now.
        case notAvailable = 50
        /// The plugin that carries it out is not there, or cannot be run.
        case noDelegate = 100
        /// That plugin ended without a result and without an error that could be passed on.
        case brokenDelegate = 101
        /// The bridge has an address of another subnet.
        case foreignBridge = 102
    }

    package var code: Code
    /// One sentence.
    package var message: String
    /// What to do about it, or what was said by who refused.
    package var details: String

    package init(_ code: Code, _ message: String, details: String = "") {
        self.code = code
        self.message = message
        self.details = details
    }

    /// What is printed.
    ///
    /// - Parameter version: the configuration's; the newest where that is not known.
    package func json(version: CNIVersion) -> String {
        var object = JSONValue.object([])
            .setting("cniVersion", to: .string("\(version)"))
            .setting("code", to: .integer(code.rawValue))
            .setting("msg", to: .string(message))
        if !details.isEmpty { object = object.setting("details", to: .string(details)) }
        return object.encoded
    }
}
