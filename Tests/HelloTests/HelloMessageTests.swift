import Addresses
import CLinux
import Glibc
import Hello
import Seeded
import Testing

extension HelloMessage {
    var bytes: [UInt8] {
        var bytes = [UInt8](repeating: 0xFF, count: HelloMessage.byteCount)
        bytes.withUnsafeMutableBytes { write(to: $0.baseAddress!) }
        return bytes
    }

    init?(_ bytes: [UInt8]) {
        let copy = bytes + [0]
        guard let message = copy.withUnsafeBytes({ HelloMessage($0.baseAddress!, length: bytes.count) })
        else { return nil }
        self = message
    }
}

@Suite struct HelloMessageTests {
    @Test func itsBytesAreWhatTheTableSays() {
        let question = HelloMessage(.question, receives: true, number: 0x0102_0304_0506_0708)
        #expect(question.bytes == Array("twil".utf8) + [1, 1, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8])
        let answer = HelloMessage(.answer, receives: false, number: 1)
        #expect(answer.bytes == Array("twil".utf8) + [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
        #expect(HelloMessage(question.bytes) == question && HelloMessage(answer.bytes) == answer)
    }

    /// Shorter than an IPv4 header: what has no word for it drops it as too short.
    @Test func itIsShorterThanAnyPacket() { #expect(HelloMessage.byteCount < 20) }

    @Test func laterVersionsAreUnderstood() {
        let question = HelloMessage(.question, receives: true, number: 9)
        var bytes = question.bytes
        bytes[4] = 7
        bytes[6] = 0xFF
        bytes[7] = 0xFF
        #expect(HelloMessage(bytes) == question)
    }

    @Test func nothingElseIsOne() {
        let bytes = HelloMessage(.question, receives: true, number: 9).bytes
        for (place, value) in [(0, 0x45), (3, 0), (4, 0), (5, 0), (5, 3)] {
            var other = bytes
            other[place] = UInt8(value)
            #expect(HelloMessage(other) == nil)
        }
        #expect(HelloMessage(bytes + [0]) == nil && HelloMessage(Array(bytes.dropLast())) == nil)
        #expect(HelloMessage([]) == nil)
        var random = SeededRandom(seed: 3)
        for _ in 0..<10_000 { #expect(HelloMessage(random.bytes(random.below(40))) == nil) }
    }
}

@Suite struct HelloInboxTests {
    private func sender(_ number: Int) -> Endpoint {
        Endpoint(address: IPv4Address(bits: UInt32(number)), port: 8285)
    }

    @Test func whatIsPutIsTakenInOrderAndTooMuchIsLost() {
        let wake = eventfd(0, Int32(EFD_NONBLOCK))
        defer { close(wake) }
        let inbox = HelloInbox.allocate(wake: wake)
        defer { inbox.deallocate() }
        #expect(inbox.take() == nil)
        for round in 0..<3 {
            for number in 0..<HelloInbox.capacity {
                #expect(
                    inbox.put(
                        HelloMessage(.question, receives: true, number: UInt64(number)), from: sender(number),
                        atNanoseconds: number))
            }
            #expect(
                !inbox.put(
                    HelloMessage(.question, receives: true, number: 1), from: sender(1), atNanoseconds: 0))
            // One wake-up, for the first.
            var value: eventfd_t = 0
            #expect(eventfd_read(wake, &value) == 0 && value == 1, "round \(round)")
            for number in 0..<HelloInbox.capacity {
                let arrival = inbox.take()
                #expect(arrival?.message.number == UInt64(number) && arrival?.sender == sender(number))
                #expect(arrival?.nanoseconds == number)
            }
            #expect(inbox.take() == nil)
        }
    }

    @Test func twoThreadsLoseNothingThatFits() throws {
        let wake = eventfd(0, 0)
        defer { close(wake) }
        let inbox = HelloInbox.allocate(wake: wake)
        defer { inbox.deallocate() }
        let count: UInt64 = 20_000
        var writer = pthread_t()
        let box = Unmanaged.passRetained(Writer(inbox: inbox, count: count))
        let result = pthread_create(
            &writer, nil,
            { argument in
                let writer = Unmanaged<Writer>.fromOpaque(argument!).takeRetainedValue()
                var number: UInt64 = 0
                while number < writer.count {
                    let message = HelloMessage(.answer, receives: true, number: number)
                    let sender = Endpoint(address: IPv4Address(bits: 1), port: 1)
                    if writer.inbox.put(message, from: sender, atNanoseconds: 0) {
                        number += 1
                    } else {
                        sched_yield()
                    }
                }
                return nil
            }, box.toOpaque())
        #expect(result == 0)
        var expected: UInt64 = 0
        var isInOrder = true
        while expected < count {
            // Sleeps for ever where a wake-up is missed.
            var value: eventfd_t = 0
            eventfd_read(wake, &value)
            while let arrival = inbox.take() {
                isInOrder = isInOrder && arrival.message.number == expected
                expected += 1
            }
        }
        pthread_join(writer, nil)
        #expect(isInOrder)
    }

    private final class Writer: Sendable {
        let inbox: HelloInbox
        let count: UInt64
        init(inbox: HelloInbox, count: UInt64) {
            self.inbox = inbox
            self.count = count
        }
    }
}
