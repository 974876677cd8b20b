import Testing

@testable import Node

@Suite struct TunnelMTUTests {
    @Test func allThatFits() throws {
        #expect(try TunnelMTU.choose(underlayMTU: 1500, overhead: 28, configured: nil) == 1472)
        #expect(try TunnelMTU.choose(underlayMTU: 9001, overhead: 28, configured: nil) == 8973)
        // lo: more than a UDP datagram holds.
        #expect(try TunnelMTU.choose(underlayMTU: 65_536, overhead: 28, configured: nil) == 65_507)
    }

    @Test func aConfiguredOneIsHonouredUpToTheLimit() throws {
        #expect(try TunnelMTU.choose(underlayMTU: 1500, overhead: 28, configured: 1400) == 1400)
        #expect(try TunnelMTU.choose(underlayMTU: 1500, overhead: 28, configured: 1472) == 1472)
        let error = #expect(throws: TunnelMTUError.self) {
            try TunnelMTU.choose(underlayMTU: 1500, overhead: 28, configured: 1473)
        }
        #expect(
            error?.description == """
                an MTU of 1473 bytes does not fit: the underlay's is 1500, the tunnel's headers take 28; \
                set it to 1472 at most, or leave it out
                """)
    }

    @Test func tooSmallIsRefused() throws {
        #expect(try TunnelMTU.choose(underlayMTU: 604, overhead: 28, configured: nil) == 576)
        let narrow = #expect(throws: TunnelMTUError.self) {
            try TunnelMTU.choose(underlayMTU: 603, overhead: 28, configured: nil)
        }
        #expect(
            narrow?.description
                == "an MTU of 575 bytes is too small: IPv4 asks for 576; raise the underlay's MTU from 603 to 604"
        )
        let configured = #expect(throws: TunnelMTUError.self) {
            try TunnelMTU.choose(underlayMTU: 1500, overhead: 28, configured: 575)
        }
        #expect(configured?.description == "an MTU of 575 bytes is too small: IPv4 asks for 576; raise it")
    }
}
