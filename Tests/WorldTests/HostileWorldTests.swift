// A node under hostile conditions, many at once, drawn by a seed: at each moment its problems must be those that there
// are, and no others; at the end all is healed. tools/test-hostile plays it for minutes.

import Glibc
import Kit
import NetworkNamespaces
import Testing

/// A seeded choice (SplitMix64).
private struct Seeded: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}

private func number(_ name: String) -> UInt64? { getenv(name).flatMap { UInt64(String(cString: $0)) } }

@Suite(
    .serialized, .enabled(if: namespacesAreExpected, "needs root and iproute2"),
    .enabled(
        if: number("TWILL_HOSTILE_SECONDS") != nil,
        "tools/test-hostile plays it; each fault by itself is in the truth table"))
struct HostileWorldTests {
    /// All but the clocks: libfaketime moves the runtime's timers with them, which no clock that is set does, so that what
    /// is done every few seconds stands still for as long as the clock is behind.
    private static let deck = Fault.table.filter { !$0.name.hasPrefix("clock") }

    @Test func allAtOnceIsToldRightlyAndHealed() async throws {
        let seconds = number("TWILL_HOSTILE_SECONDS") ?? 30
        let seed = number("TWILL_HOSTILE_SEED") ?? 1
        print("hostile world: \(seconds) s, seed \(seed)")
        var random = Seeded(state: seed)
        let world = try await World()
        try await world.victim.healed()
        let memory = world.victim.residentBytes
        let descriptors = world.victim.openDescriptorCount
        let clock = ContinuousClock()
        let end = clock.now + .seconds(Int(seconds))
        var active: [Fault] = []
        while clock.now < end {
            let isEnding = active.count >= 6 || (!active.isEmpty && Bool.random(using: &random))
            if isEnding {
                let fault = active.remove(at: Int.random(in: active.indices, using: &random))
                print("hostile world: over: \(fault.name)")
                try await fault.end(world)
            } else if let fault = HostileWorldTests.deck.filter({ fault in
                active.allSatisfy { $0.goes(with: fault) }
            })
            .randomElement(using: &random) {
                print("hostile world: begins: \(fault.name)")
                try await fault.begin(world)
                active.append(fault)
            }
            try await world.expectTruth(of: active)
        }
        for fault in active.reversed() { try await fault.end(world) }
        try await world.victim.healed(seconds: 90)
        try await world.other.healed(seconds: 90)
        #expect(await world.pods[0].answers(from: world.pods[1].address, count: 5) == 5)
        #expect(world.victim.openDescriptorCount <= descriptors + 10)
        // What it had for a thousand connections or a full log stays with the allocator; it has a limit.
        #expect(world.victim.residentBytes <= memory + 32 << 20)
    }
}

extension Fault {
    /// Whether both can be at once: what is done to eth0 undoes other things that are done to it.
    fileprivate func goes(with other: Fault) -> Bool {
        if name == other.name { return false }
        let exclusive = [
            ["address", "interface down", "a route to the peer"], ["network conf", "etcd"],
            // Another uplink takes over then, and that is told.
            ["VPN with a better", "interface down", "address gone"],
            // The kernel has no way for what it does not forward, and so names none.
            ["the machine forwards", "VPN with a policy", "somebody's more specific"],
            // What is in a store cannot be told of while it is not reached.
            [
                "etcd", "interface down", "address gone", "a lease that", "this node's own lease",
                "network conf",
            ],
            ["subnet.env", "full disk"],
        ]
        return !exclusive.contains { words in
            words.contains { name.hasPrefix($0) } && words.contains { other.name.hasPrefix($0) }
        }
    }
}
