import Addresses
import Testing

@testable import NodeDaemon

/// How long a node takes datagrams in on the port that it had before.
@Suite struct FormerPortTests {
    private static let port = Endpoint(address: IPv4Address(10, 0, 0, 1), port: 9285)
    private static let start = ContinuousClock.now

    /// Whether it is over at each of these times, one after another.
    private static func isOver(_ looks: [(port: Endpoint?, at: Duration)]) -> [Bool] {
        var former = FormerPort()
        return looks.map { former.isOver(besides: $0.port, at: start + $0.at) }
    }

    /// Who was busy at that moment finds it over later, too.
    @Test func itEndsAfterItsTimeAndStaysOver() {
        let end = FormerPort.lifetime
        #expect(
            Self.isOver([
                (Self.port, .zero), (Self.port, end - .seconds(1)), (Self.port, end),
                (Self.port, end + .seconds(90)),
            ]) == [false, false, true, true])
    }

    @Test func anotherPortHasItsOwnTime() {
        let end = FormerPort.lifetime
        let other = Endpoint(address: IPv4Address(10, 0, 0, 1), port: 9286)
        #expect(
            Self.isOver([
                (Self.port, .zero), (other, end), (other, end * 2 - .seconds(1)), (other, end * 2),
            ]) == [false, false, false, true])
    }

    @Test func withoutOneOfBeforeNothingIsOver() {
        let end = FormerPort.lifetime
        #expect(
            Self.isOver([(Self.port, .zero), (nil, end), (Self.port, end), (Self.port, end * 2)])
                == [false, false, false, true])
    }
}
