import Testing

@testable import Worker

extension Tuning {
    /// The defaults, and what strains the worker most: hardly any memory, one packet at a time, all that can be had.
    static let extremes: [Tuning] = {
        var small = Tuning()
        small.ringEntries = 512
        small.batch = 8
        small.superPacketBatch = 1
        small.receiveBuffers = 2
        var single = small
        single.batch = 1
        single.receiveBuffers = 1
        single.minimumWaitMicroseconds = 100
        var large = Tuning()
        large.ringEntries = 4096
        large.superPacketBatch = 64
        large.receiveBuffers = 64
        large.minimumWaitMicroseconds = 1000
        return [Tuning(), small, single, large]
    }()
}

@Suite struct TuningTests {
    @Test func theDefaultsGoTogether() throws {
        let limits = try WorkerLimits(Tuning())
        #expect(limits.tunnelBuffers == 129)
        #expect(limits.messages == 336)
        #expect(limits.superPacketBatch == 16)
        #expect(limits.writeSlots == 512)
        #expect(limits.gatheredCompletions == 8)
    }

    @Test func aRoundNeverNeedsMoreThanTheRingHolds() throws {
        for batch in Tuning.Ranges.batch {
            for exponent in 9...14 {
                var tuning = Tuning()
                tuning.batch = batch
                tuning.ringEntries = 1 << exponent
                guard let limits = try? WorkerLimits(tuning) else {
                    #expect(tuning.ringEntries <= 512, "batch \(batch), \(tuning.ringEntries) entries")
                    continue
                }
                let needed =
                    limits.messages + limits.writeSlots + WorkerLimits.errorReplies + limits.readBurst + 1
                    + WorkerLimits.reservedOperations
                #expect(needed <= limits.ringEntries)
                #expect(limits.writeSlots >= WorkerLimits.receivedSegments)
            }
        }
    }

    private func complaint(_ change: (inout Tuning) -> Void) -> TuningError? {
        var tuning = Tuning()
        change(&tuning)
        do throws(TuningError) {
            _ = try WorkerLimits(tuning)
            return nil
        } catch { return error }
    }

    @Test func whatDoesNotGoTogetherIsRefused() {
        #expect(complaint { $0.batch = 0 } == .outOfRange(.batch, value: 0, range: 1...64))
        #expect(complaint { $0.workers = .fixed(65) } == .outOfRange(.workers, value: 65, range: 1...64))
        #expect(complaint { $0.receiveBuffers = 12 } == .noPowerOfTwo(.receiveBuffers, value: 12))
        #expect(complaint { $0.ringEntries = 512 } == .tooFewRingEntries(512, batch: 64, needed: 1024))
        #expect(
            complaint { $0.receiveBufferBytes = 2048 }
                == .losesCoalesced(receiveBufferBytes: 2048, coalesced: 65_507))
        #expect(
            complaint {
                $0.receiveBufferBytes = 2048
                $0.usesCoalescing = false
            } == nil)
    }

    @Test func theRingThatARefusalNamesIsEnough() {
        for batch in [1, 7, 8, 9, 31, 32, 33, 64] {
            let refusal = complaint {
                $0.batch = batch
                $0.ringEntries = 512
            }
            guard case .tooFewRingEntries(_, _, let named)? = refusal else { continue }
            #expect(
                complaint {
                    $0.batch = batch
                    $0.ringEntries = named
                } == nil)
        }
    }

    @Test func automaticLeavesMostCPUsToThePods() {
        func number(_ cpus: Int, pinnedTo: [Int] = []) -> Int {
            WorkerCount.automatic.number(pinnedTo: pinnedTo, usableCPUs: cpus)
        }
        #expect([1, 2, 4, 7, 8, 16, 32, 128].map { number($0) } == [1, 1, 1, 1, 2, 4, 8, 8])
        #expect(number(16, pinnedTo: [0, 2, 4]) == 3)
        #expect(WorkerCount.fixed(5).number(pinnedTo: [1], usableCPUs: 1) == 5)
    }
}
