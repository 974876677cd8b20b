import Testing

@testable import Worker

@Suite struct KernelDropsTests {
    @Test func countsGoOnOverTheWrapAndOverWhatTheKernelDoesNotTell() {
        var drops = KernelDrops(sockets: 2, queueDropped: 100)
        drops.note(ofSockets: [0, 0], ofQueue: 100)
        #expect(drops.socketsDropped == 0 && drops.queueDropped == 0)
        drops.note(ofSockets: [5, .max], ofQueue: 103)
        #expect(drops.socketsDropped == UInt64(UInt32.max) + 5 && drops.queueDropped == 3)
        drops.note(ofSockets: [nil, 4], ofQueue: nil)
        drops.note(ofSockets: [6, 4], ofQueue: 104)
        #expect(drops.socketsDropped == UInt64(UInt32.max) + 11 && drops.queueDropped == 4)
        // Another device of the name.
        drops.note(ofSockets: [6, 4], ofQueue: 1)
        drops.note(ofSockets: [6, 4], ofQueue: 3)
        #expect(drops.queueDropped == 6)
    }
}
