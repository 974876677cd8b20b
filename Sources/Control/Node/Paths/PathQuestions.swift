import Addresses

/// Which peers' ways the kernel is asked about next: all when something changed, some at each resync.
///
/// A question takes some 15 µs. So a pass costs 2 ms at most; with 10,000 peers the first news of a change is there
/// at once, the last after 79 passes in 8 s, and what the kernel does not tell of is seen within 79 resyncs.
struct PathQuestions {
    /// Questions in one pass.
    static let perPass = 128
    /// Between two passes.
    static let pause = Duration.milliseconds(100)
    /// All are asked anew this often at most: on a machine whose routes change all the time a round of 128 questions
    /// is 0.2 % of a CPU.
    static let pauseBetweenRounds = Duration.seconds(1)

    private var addresses: [IPAddress] = []
    private var newcomers: [IPAddress] = []
    private var place = 0
    private var left = 0
    private var isRoundWanted = false
    private var roundBegan: ContinuousClock.Instant?
    private var lastPass: ContinuousClock.Instant?

    /// Asks about these from here on, and at once about those that were not among them.
    mutating func follow(_ addresses: [IPAddress]) {
        let known = Set(self.addresses).subtracting(newcomers)
        newcomers = addresses.filter { !known.contains($0) }
        self.addresses = addresses
        left = min(left, addresses.count)
        isRoundWanted = isRoundWanted && !addresses.isEmpty
    }

    /// Something changed that may be about any of them.
    mutating func noteChange() { isRoundWanted = !addresses.isEmpty }

    /// Time has passed.
    mutating func noteResync() { left = max(left, min(PathQuestions.perPass, addresses.count)) }

    /// What to ask now.
    mutating func take(at now: ContinuousClock.Instant) -> ArraySlice<IPAddress> {
        guard let due, due <= now || lastPass == nil else { return [] }
        if !newcomers.isEmpty {
            let questions = newcomers.prefix(PathQuestions.perPass)
            newcomers.removeFirst(questions.count)
            lastPass = now
            return questions
        }
        if isRoundWanted, roundBegan.map({ $0 + PathQuestions.pauseBetweenRounds <= now }) ?? true {
            isRoundWanted = false
            roundBegan = now
            left = addresses.count
        }
        if place >= addresses.count { place = 0 }
        let questions = addresses[place..<min(place + min(left, PathQuestions.perPass), addresses.count)]
        place = questions.endIndex
        left -= questions.count
        if !questions.isEmpty { lastPass = now }
        return questions
    }

    /// When there is something to ask; nil for nothing.
    var due: ContinuousClock.Instant? {
        guard left > 0 || isRoundWanted || !newcomers.isEmpty else { return nil }
        let afterPass = lastPass.map { $0 + PathQuestions.pause } ?? ContinuousClock.now
        if left > 0 || !newcomers.isEmpty { return afterPass }
        return max(afterPass, roundBegan.map { $0 + PathQuestions.pauseBetweenRounds } ?? afterPass)
    }
}
