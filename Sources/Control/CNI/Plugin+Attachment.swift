import JSON

// ADD, DEL and CHECK: one container's interface.
extension Plugin {
    func add() throws(Refusal) -> String {
        let subnets = try own { () throws(CNIError) in try NodeSubnets(path: configuration.subnetFile) }
        let made = try own { () throws(CNIError) in
            try DelegateConfiguration(configuration, subnets: subnets)
        }
        let delegate = try delegate(made)
        try own { () throws(CNIError) in
            try kept.keep(made.json, for: invocation.attachment.container)
        }
        let result: String
        do throws(Refusal) {
            result = try delegate.call(made.json, environment: invocation.environment)
        } catch {
            guard let bridge = made.bridge,
                var fault = BridgeAddresses.fault(of: bridge, subnets: subnets.subnets)
            else { throw error }
            fault.details = error.words
            throw .own(fault)
        }
        guard case .object = JSONValue(parsing: result) else {
            throw .own(
                CNIError(.brokenDelegate, "the plugin \(delegate.type) ended well and printed no result"))
        }
        return result
    }

    /// Whatever is missing already, the delegate is called: it knows best what it has left.
    func delete() throws(Refusal) {
        let container = invocation.attachment.container
        switch kept.configuration(for: container) {
        case .whole(let known) where known.network == configuration.name:
            _ = try delegate(known).call(known.json, environment: invocation.environment)
            kept.forget(container)
        case .whole:
            // Another network's, which has the same directory.
            try deleteRebuilt()
        case .broken:
            try deleteRebuilt()
            kept.forget(container)
        case .none:
            try deleteRebuilt()
        }
    }

    private func deleteRebuilt() throws(Refusal) {
        let known = rebuilt
        // Where there is no delegate there was no ADD.
        guard let delegate = try? delegate(known) else { return }
        _ = try delegate.call(known.json, environment: invocation.environment)
    }

    /// The delegate judges, by what it was given at ADD and by the result of that.
    func check() throws(Refusal) {
        guard let result = configuration.previousResult else {
            throw .own(CNIError(.configuration, "the configuration has no prevResult, which CHECK needs"))
        }
        var known: DelegateConfiguration?
        if case .whole(let found) = kept.configuration(for: invocation.attachment.container),
            found.network == configuration.name
        {
            known = found
        }
        let made: DelegateConfiguration
        if let known {
            made = known
        } else {
            made = try own { () throws(CNIError) in
                try DelegateConfiguration(
                    configuration, subnets: try NodeSubnets(path: configuration.subnetFile))
            }
        }
        let json = made.json(with: [
            ("cniVersion", .string("\(configuration.version)")),
            ("prevResult", PreviousResult.withGateways(result)),
        ])
        _ = try delegate(made).call(json, environment: invocation.environment)
    }
}

extension Refusal {
    /// In words, as part of another error.
    var words: String {
        switch self {
        case .delegates(let text): JSONValue(parsing: text)?["msg"]?.text ?? text
        case .own(let error): error.message
        }
    }
}
