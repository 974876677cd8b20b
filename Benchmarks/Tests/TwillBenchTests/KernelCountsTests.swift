import Testing

@testable import twill_bench

@Suite("What kernels count")
struct KernelCountsTests {
    @Test("A number is found by its group and its name")
    func value() {
        let text = """
            Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors
            Udp: 250342 6 93 250453 48 2
            UdpLite: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors
            UdpLite: 0 0 0 0 7 0
            """
        #expect(KernelCounts.value("RcvbufErrors", of: "Udp:", in: text) == 48)
        #expect(KernelCounts.value("RcvbufErrors", of: "UdpLite:", in: text) == 7)
        #expect(KernelCounts.value("IgnoredMulti", of: "Udp:", in: text).isNaN)
        #expect(KernelCounts.value("RcvbufErrors", of: "Tcp:", in: text).isNaN)
    }

    @Test("What was sent in vain is added up over the interfaces that count")
    func sentInVain() {
        let text = """
            Inter-|   Receive                                                |  Transmit
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
                lo: 28644673  302706    1    2    3     4          5         6 28644673  302706    7    8    9    10      11         12
             port1:       1       2    3    4    5     6          7         8        9      10   11 4366   13    14      15         16
             port2:       1       2    3    4    5     6          7         8        9      10   11   35   13    14      15         16
            """
        #expect(KernelCounts.sentInVain(text) { $0.hasPrefix("port") } == 4401)
        #expect(KernelCounts.sentInVain(text) { $0 == "lo" } == 8)
        #expect(KernelCounts.sentInVain(text) { $0 == "eth0" } == 0)
    }
}
