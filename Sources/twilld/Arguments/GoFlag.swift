import ArgumentParser

/// One flag of the command line, as far as it must be known before ArgumentParser sees it: Go's style lets a
/// boolean stand alone and lets every other flag take the next word, so that the words cannot be told apart
/// without this table. A test holds it against the options that ArgumentParser declares.
struct GoFlag: Sendable, Hashable {
    /// What a flag takes.
    enum Kind: Sendable {
        /// Nothing, or `=true`, `=false` and Go's other spellings.
        case boolean
        /// One value; the last one given counts.
        case single
        /// One value each time that it is given; all of them count, in order.
        case repeatable
    }

    /// Without dashes: `etcd-endpoints`.
    let name: String
    let kind: Kind

    init(_ name: String, _ kind: Kind = .single) {
        self.name = name
        self.kind = kind
    }

    /// The variable that stands in where the flag is not given: `FLANNELD_ETCD_ENDPOINTS`, as flanneld has
    /// it.
    var environmentName: String {
        "FLANNELD_" + name.uppercased().map { $0 == "-" ? "_" : String($0) }.joined()
    }
}

/// A group of flags that commands share, with what Go's style must know of each.
protocol FlagGroup: ParsableArguments {
    /// The flags that the group declares.
    static var flags: [GoFlag] { get }
}
