import Addresses
import Health
import Testing

@testable import Node

@Suite struct PathWatchTests {
    private static let subnet = IPPrefix("10.66.2.0/24")!
    private static let address = IPAddress("192.0.2.2")!

    /// A network of one peer, in a time of its own.
    private struct Scene {
        var watch: PathWatch
        var path: SimulatedPath
        var now = ContinuousClock.now
        var traffic = PathTraffic(sentBytes: 0, receivedPackets: 0)
        /// Whether pods there answer what pods here send.
        var podsAnswer = true
        /// Whether the host there says that nobody listens on the peer's port.
        var hostRefuses = false

        init(limit: Int, answers: Bool = true, probes: Bool = true) {
            watch = PathWatch(timing: PathTiming(), probes: probes)
            path = SimulatedPath(limit: limit, answers: answers)
            watch.follow([subnet: address], tunnelMTU: 1472, overhead: 28)
        }

        /// Lets time pass, with so many bytes sent to the peer each second.
        mutating func pass(seconds: Int, bytesPerSecond: UInt64 = 0) {
            for _ in 0..<seconds {
                traffic.sentBytes += bytesPerSecond
                if bytesPerSecond > 0, podsAnswer { traffic.receivedPackets += 1 }
                watch.take([subnet: traffic], at: now)
                let end = now + .seconds(1)
                while now < end {
                    var probes: [(sequence: Int, size: Int)] = []
                    _ = watch.turn(at: now) { _, sequence, size in
                        probes.append((sequence, size))
                        return true
                    }
                    for probe in probes {
                        traffic.sentBytes += UInt64(probe.size)
                        if path.carries(probe.size, at: now) {
                            traffic.receivedPackets += 1
                            watch.takeAnswer(from: subnet.address, sequence: probe.sequence, at: now)
                        }
                    }
                    if hostRefuses { watch.takeRefusal(of: subnet, at: now) }
                    now += .milliseconds(20)
                }
            }
        }

        var problems: [String] {
            watch.problems(underlay: ("eth0", 1500)).values.map(\.sentence)
        }
    }

    @Test func anIdlePeerIsLeftAlone() {
        var scene = Scene(limit: 1372)
        scene.pass(seconds: 1000)
        #expect(scene.path.sizes.isEmpty && scene.problems.isEmpty && scene.watch.narrow.isEmpty)
        // The answers to another node's probes, one a minute, are no traffic.
        for _ in 0..<6 {
            scene.pass(seconds: 1, bytesPerSecond: 576)
            scene.pass(seconds: 59)
        }
        #expect(scene.path.sizes.isEmpty)
    }

    @Test func aBusyPeerCostsAProbeAMinute() {
        var scene = Scene(limit: 1472)
        scene.pass(seconds: 600, bytesPerSecond: 100_000)
        #expect((9...11).contains(scene.path.sizes.count))
        #expect(scene.path.sizes.allSatisfy { $0 == 1472 })
        #expect(scene.problems.isEmpty && scene.watch.narrow.isEmpty)
    }

    @Test func aBlackHoleIsFoundToldAndLeft() throws {
        var scene = Scene(limit: 1372)
        scene.pass(seconds: 15, bytesPerSecond: 5_000)
        #expect(scene.watch.narrow == [Self.subnet: 1372])
        let problem = try #require(scene.problems.first)
        #expect(
            problem == """
                the path to peer 10.66.2.0/24 (192.0.2.2) carries packets of 1400 bytes, eth0 takes 1500, and no ICMP \
                error says so; pods there are told to send 1372 at most; raise the MTU on the way, or set Backend.MTU \
                to 1372 and restart the pods
                """)
        // It is asked again by and by, also without traffic, and what is wide again is left.
        let before = scene.path.sizes.count
        scene.pass(seconds: 310)
        #expect(scene.watch.narrow == [Self.subnet: 1372])
        #expect((1...12).contains(scene.path.sizes.count - before))
        scene.path.limit = 1472
        scene.pass(seconds: 310)
        #expect(scene.watch.narrow.isEmpty && scene.problems.isEmpty)
    }

    @Test func aPathThatTurnsBlackIsFoundWithinAMinute() {
        var scene = Scene(limit: 1472)
        scene.pass(seconds: 100, bytesPerSecond: 5_000)
        scene.path.limit = 1172
        scene.pass(seconds: 75, bytesPerSecond: 5_000)
        #expect(scene.watch.narrow == [Self.subnet: 1172])
    }

    @Test func aPeerThatDoesNotAnswerIsToldOnlyWhileItIsSentTo() throws {
        var scene = Scene(limit: 1472, answers: false)
        scene.podsAnswer = false
        scene.pass(seconds: 300)
        #expect(scene.problems.isEmpty && scene.path.sizes.isEmpty)
        scene.pass(seconds: 8, bytesPerSecond: 84)
        #expect(scene.problems.isEmpty)
        scene.pass(seconds: 12, bytesPerSecond: 84)
        let problem = try #require(scene.problems.first)
        #expect(problem.hasPrefix("peer 10.66.2.0/24 (192.0.2.2) does not answer: "))
        #expect(scene.watch.narrow.isEmpty)
        let before = scene.path.sizes.count
        scene.pass(seconds: 300, bytesPerSecond: 84)
        #expect(!scene.problems.isEmpty && scene.path.sizes.count - before <= 66)
        // Nobody asks for it any more.
        scene.pass(seconds: 301)
        #expect(scene.problems.isEmpty)
        scene.pass(seconds: 60, bytesPerSecond: 84)
        #expect(!scene.problems.isEmpty)
        // It is heard again.
        scene.podsAnswer = true
        scene.pass(seconds: 2, bytesPerSecond: 84)
        #expect(scene.problems.isEmpty)
    }

    @Test func aHostThatRefusesIsToldOnlyWhileThePeerIsSilent() throws {
        var scene = Scene(limit: 1472, answers: false)
        scene.podsAnswer = false
        scene.hostRefuses = true
        scene.pass(seconds: 300)
        #expect(!scene.watch.isAnybodyUnheard && scene.watch.silent.isEmpty)
        scene.pass(seconds: 8, bytesPerSecond: 84)
        #expect(scene.watch.isAnybodyUnheard && scene.watch.silent.isEmpty)
        scene.pass(seconds: 12, bytesPerSecond: 84)
        #expect(scene.watch.silent == [Self.subnet: .refused])
        #expect(try #require(scene.problems.first).contains("its host says that nobody listens"))
        // Its firewall drops now what it refused before.
        scene.hostRefuses = false
        scene.pass(seconds: 302, bytesPerSecond: 84)
        #expect(scene.watch.silent == [Self.subnet: .unanswered])
        #expect(try #require(scene.problems.first).contains("neither one nor an answer to a probe"))
        scene.hostRefuses = true
        scene.pass(seconds: 2, bytesPerSecond: 84)
        #expect(scene.watch.silent == [Self.subnet: .refused])
        // It is heard: what its host is said to say, by whomever, is not believed.
        scene.podsAnswer = true
        scene.pass(seconds: 300, bytesPerSecond: 100_000)
        #expect(scene.watch.silent.isEmpty && scene.problems.isEmpty && !scene.watch.isAnybodyUnheard)
    }

    @Test func aPeerThatIsHeardAndAnswersNoProbeIsLeftAlone() {
        var scene = Scene(limit: 1372, answers: false)
        scene.pass(seconds: 1000, bytesPerSecond: 100_000)
        #expect(scene.problems.isEmpty && scene.watch.narrow.isEmpty)
        #expect(scene.path.sizes.count <= 40)
    }

    @Test func anErrorThatOnlySomebodySentCostsNothing() {
        var scene = Scene(limit: 1472)
        scene.pass(seconds: 12, bytesPerSecond: 100_000)
        for learnt in [552, 1300, 1499] {
            scene.watch.take(
                PathLimit(interfaceIndex: 2, mtu: 1500), learnt: learnt, of: Self.address, at: scene.now)
            scene.pass(seconds: 20, bytesPerSecond: 100_000)
            #expect(scene.watch.narrow.isEmpty && scene.problems.isEmpty)
        }
        // Each was looked at, with one probe; one more was due after a minute.
        #expect((4...5).contains(scene.path.sizes.count) && scene.path.sizes.allSatisfy { $0 == 1472 })
    }

    @Test func anErrorThatCannotBeProvenIsBelievedWithinReason() {
        var scene = Scene(limit: 1372, answers: false)
        let limit = PathLimit(interfaceIndex: 2, mtu: 1500)
        scene.watch.take(limit, learnt: 1400, of: Self.address, at: scene.now)
        scene.pass(seconds: 5, bytesPerSecond: 5_000)
        #expect(scene.watch.narrow == [Self.subnet: 1372])
        scene.watch.take(limit, learnt: 552, of: Self.address, at: scene.now)
        #expect(scene.watch.narrow.isEmpty)
        scene.watch.take(limit, learnt: 1280, of: Self.address, at: scene.now)
        #expect(scene.watch.narrow == [Self.subnet: 1252])
        scene.watch.take(limit, learnt: nil, of: Self.address, at: scene.now)
        #expect(scene.watch.narrow.isEmpty)
        // Without probes the same.
        var silent = Scene(limit: 1372, probes: false)
        silent.watch.take(limit, learnt: 1400, of: Self.address, at: silent.now)
        silent.pass(seconds: 5, bytesPerSecond: 5_000)
        #expect(silent.watch.narrow == [Self.subnet: 1372] && silent.path.sizes.isEmpty)
    }

    @Test func whatTheOperatorGaveTheRouteIsTakenAtOnceAndNoProblem() {
        var scene = Scene(limit: 1472)
        scene.watch.take(
            PathLimit(interfaceIndex: 2, mtu: 1400), learnt: nil, of: Self.address, at: scene.now)
        #expect(scene.watch.narrow == [Self.subnet: 1372] && scene.problems.isEmpty)
        scene.pass(seconds: 10, bytesPerSecond: 5_000)
        #expect(scene.path.sizes == [1372] && scene.problems.isEmpty)
        scene.watch.take(
            PathLimit(interfaceIndex: 2, mtu: 1500), learnt: nil, of: Self.address, at: scene.now)
        #expect(scene.watch.narrow.isEmpty)
    }

    @Test func aPathOnWhichTheTunnelCannotWorkIsNamed() throws {
        var scene = Scene(limit: 1472)
        scene.watch.take(PathLimit(interfaceIndex: 2, mtu: 500), learnt: nil, of: Self.address, at: scene.now)
        let problem = try #require(scene.problems.first)
        #expect(
            problem == """
                the path to peer 10.66.2.0/24 (192.0.2.2) carries packets of 500 bytes only: the tunnel needs 604; \
                raise the MTU of the route or link to 192.0.2.2
                """)
    }

    @Test(arguments: [Int.min / 2, -1, 0, 20, 68, 96, 97]) func noRouteIsGivenAnAbsurdMTU(mtu: Int) {
        var scene = Scene(limit: 1472)
        scene.watch.take(PathLimit(interfaceIndex: 2, mtu: mtu), learnt: nil, of: Self.address, at: scene.now)
        scene.pass(seconds: 10, bytesPerSecond: 5_000)
        #expect(scene.watch.narrow == [Self.subnet: max(68, mtu - 28)])
        #expect(scene.problems.count == 1)
    }

    /// IPv6's smallest packets are larger, and so is what it asks for.
    @Test func aPathTooNarrowForIPv6IsSaidInItsOwnNumbers() throws {
        var watch = PathWatch(timing: PathTiming(), probes: true)
        let (subnet, address) = (try #require(IPPrefix("fd66::/64")), try #require(IPAddress("fd20::2")))
        watch.follow([subnet: address], tunnelMTU: 1452, minimum: 1280, overhead: 48)
        var (now, sizes) = (ContinuousClock.now, Set<Int>())
        // A second of traffic that nothing answers, so that each size of the first search is tried.
        watch.take([subnet: PathTraffic(sentBytes: 5_000, receivedPackets: 1)], at: now)
        for _ in 0..<500 {
            _ = watch.turn(at: now) { target, _, size in
                #expect(target == subnet.address)
                sizes.insert(size)
                return true
            }
            now += .milliseconds(20)
        }
        #expect(sizes == [1452, 56])
        watch.take(PathLimit(interfaceIndex: 2, mtu: 1300), learnt: nil, of: address, at: now)
        let problem = try #require(watch.problems(underlay: ("eth0", 1500)).values.first)
        #expect(problem.cause.contains("carries packets of 1300 bytes only: the tunnel needs 1328"))
    }

    @Test func manyNarrowPathsAreOneSentenceBeyondALimit() {
        var watch = PathWatch(timing: PathTiming(), probes: true)
        var peers: [IPPrefix: IPAddress] = [:]
        for number in 1...100 {
            peers[IPPrefix("10.66.\(number).0/24")!] = IPAddress("192.0.2.\(number)")!
        }
        watch.follow(peers, tunnelMTU: 1472, overhead: 28)
        for address in peers.values {
            watch.take(PathLimit(interfaceIndex: 2, mtu: 400), learnt: nil, of: address, at: .now)
        }
        let problems = watch.problems(underlay: ("eth0", 1500))
        #expect(problems.count == PathWatch.problemLimit + 1)
        #expect(
            problems["others"]?.cause
                == "of the other peers 0 do not answer, and 84 are behind narrow paths")
    }
}

@Suite struct PathQuestionsTests {
    @Test func aPassAsksNoMoreThanItMay() {
        let addresses = (0..<1000).map { IPAddress.v4(IPv4Address(bits: 0x0A00_0000 + $0)) }
        var questions = PathQuestions()
        questions.follow(addresses)
        var now = ContinuousClock.now
        var asked: [IPAddress] = []
        var passes = 0
        while questions.due != nil {
            let batch = questions.take(at: now)
            #expect(batch.count <= PathQuestions.perPass)
            asked += batch
            passes += 1
            now += PathQuestions.pause
        }
        #expect(asked.sorted() == addresses && passes == 8)
        let more = questions.take(at: now + .seconds(10))
        #expect(more.isEmpty)

        // A resync asks some, and each in its turn.
        var seen: Set<IPAddress> = []
        for _ in 0..<8 {
            now += .seconds(5)
            questions.noteResync()
            let batch = questions.take(at: now)
            #expect(batch.count <= PathQuestions.perPass)
            seen.formUnion(batch)
        }
        #expect(seen.count >= 1000 - PathQuestions.perPass)

        // Many changes make one round a second.
        var count = 0
        for _ in 0..<200 {
            questions.noteChange()
            now += .milliseconds(50)
            count += questions.take(at: now).count
        }
        #expect(count <= 100 * PathQuestions.perPass)
    }

    @Test func fewAddressesAreAskedOncePerSecondAtMost() {
        var questions = PathQuestions()
        let addresses = [IPAddress("192.0.2.1")!, IPAddress("192.0.2.2")!]
        questions.follow(addresses)
        var now = ContinuousClock.now
        let first = Array(questions.take(at: now))
        #expect(first == addresses)
        var count = 0
        for _ in 0..<100 {
            questions.noteChange()
            now += .milliseconds(100)
            count += questions.take(at: now).count
        }
        #expect((18...22).contains(count))
        // A newcomer is asked about at once, the others are not asked again.
        questions = PathQuestions()
        questions.follow(addresses)
        _ = questions.take(at: now)
        let newcomer = IPAddress("192.0.2.3")!
        questions.follow(addresses + [newcomer])
        let second = Array(questions.take(at: now + .seconds(1)))
        #expect(second == [newcomer])
        questions.follow([])
        #expect(questions.due == nil)
    }
}
