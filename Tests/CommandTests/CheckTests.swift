import Testing

@testable import twilld

@Suite struct CheckTests {
    @Test(arguments: [
        ("6.18.44-fc-v669", Finding.Outcome.good), ("6.1.0-13-amd64", .good), ("6.1", .good), ("7.0", .good),
        ("6.0.19", .bad), ("5.15.0", .bad), ("4.19", .bad), ("custom", .degraded), ("", .degraded),
    ])
    func kernels(release: String, outcome: Finding.Outcome) {
        let finding = Finding.kernel(release: release)
        #expect(finding.outcome == outcome)
        #expect((finding.remedy == nil) == (outcome == .good))
    }

    @Test(
        arguments: [
            (nil, false, Finding.Outcome.good), ("0", false, .good), ("1", true, .good),
            ("1", false, .degraded),
            ("2", true, .degraded),
        ] as [(String?, Bool, Finding.Outcome)])
    func uring(setting: String?, isRoot: Bool, outcome: Finding.Outcome) {
        #expect(Finding.uringAllowed(setting: setting, isRoot: isRoot).outcome == outcome)
    }

    @Test func theRest() {
        #expect(Finding.forwarding(setting: "1").outcome == .good)
        #expect(Finding.forwarding(setting: "0").outcome == .bad)
        #expect(Finding.forwarding(setting: nil).outcome == .bad)
        #expect(Finding.lockedMemory(limitBytes: 65_536, isRegistered: false).outcome == .degraded)
        #expect(Finding.lockedMemory(limitBytes: nil, isRegistered: true).detail == "no limit")
    }

    @Test func aLineSaysWhatToDo() {
        #expect(
            Finding("tun", .good, "a device can be made").line
                == "ok    tun               a device can be made")
        #expect(Finding("x", .bad, "0", remedy: "do this").line == "FAIL  x                 0: do this")
    }
}
