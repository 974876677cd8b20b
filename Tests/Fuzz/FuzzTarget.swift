/// A parser under fuzz: what it is given is bytes, however odd, and what must hold of them is checked.
public protocol FuzzTarget: AnyObject {
    /// Valid inputs to begin from, made by the encoders where there are any.
    var seeds: [[UInt8]] { get }
    /// What is put into inputs: numbers at the edge of their range, reserved addresses, keys, whatever is meant to be odd.
    var words: [[UInt8]] { get }
    /// Longer inputs are cut.
    var maximumBytes: Int { get }
    /// Runs one input; throws what must hold of it and does not. What traps ends the program.
    func run(_ bytes: [UInt8]) throws(FuzzFailure)
}

extension FuzzTarget {
    /// Runs one input that is text.
    func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }
}

/// Something did not hold.
public struct FuzzFailure: Error, CustomStringConvertible {
    /// What.
    public let description: String

    /// Makes a failure.
    public init(_ description: String) { self.description = description }
}

/// Throws where something does not hold.
public func hold(_ isSo: Bool, _ what: @autoclosure () -> String) throws(FuzzFailure) {
    if !isSo { throw FuzzFailure(what()) }
}

/// A target by name, made when it is needed.
public struct NamedFuzzTarget {
    /// As the command line has it: `lease-key`.
    public let name: String
    /// Makes it, with all the memory that it uses.
    public let make: () -> any FuzzTarget

    /// Names a target.
    public init(_ name: String, _ make: @escaping () -> any FuzzTarget) {
        self.name = name
        self.make = make
    }
}
