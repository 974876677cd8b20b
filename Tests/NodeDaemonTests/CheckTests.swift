import Addresses
import Node
import Reconciler
import Testing

@testable import NodeDaemon

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
        #expect(Finding.forwarding(.ipv4, setting: "1").outcome == .good)
        #expect(Finding.forwarding(.ipv4, setting: "0").outcome == .bad)
        #expect(Finding.forwarding(.ipv4, setting: nil).outcome == .bad)
        let ipv6 = Finding.forwarding(.ipv6, setting: "0")
        #expect(ipv6.outcome == .bad && ipv6.remedy?.contains("net.ipv6.conf.all.forwarding=1") == true)
        #expect(Finding.lockedMemory(limitBytes: 65_536, isRegistered: false).outcome == .degraded)
        #expect(Finding.lockedMemory(limitBytes: nil, isRegistered: true).detail == "no limit")
    }

    @Test(
        arguments: [(nil, "modprobe br_netfilter"), ("0", "bridge-nf-call-iptables=1"), ("1", nil)]
            as [(String?, String?)])
    func bridgesThatDoNotAskIptables(setting: String?, remedy: String?) {
        let finding = Finding.bridgeNetfilter(setting: setting)
        #expect(finding.outcome == (remedy == nil ? .good : .degraded))
        if let remedy { #expect(finding.remedy?.contains(remedy) == true) }
    }

    /// The check speaks as the running daemon does.
    @Test func findingsHaveTheWordsOfTheProblems() {
        let endpoint = Endpoint(address: IPv4Address(192, 0, 2, 1), port: 8285)
        let problem = PortTaken(endpoint: endpoint, holder: "flanneld (process 7)").problem(retrySeconds: 2)
        let port = Finding.port(endpoint, holder: "flanneld (process 7)")
        #expect(port.detail == problem.cause && port.remedy == problem.remedy && port.outcome == .degraded)
        #expect(Finding.port(endpoint, holder: nil).outcome == .good)
        let forwarding = Finding.forwarding(.ipv4, setting: "0")
        #expect(forwarding.detail == SystemSettingError.forwardingIsOff(.ipv4).cause)
        let rights = Finding.rights(("no right", "get it"))
        #expect(rights.outcome == .bad && rights.detail == "no right" && rights.remedy == "get it")
        #expect(Finding.rights(nil).outcome == .good)
        #expect(Finding.device("flannel0", holder: "x (process 1)").outcome == .degraded)
        #expect(Finding.device("flannel0", holder: nil).outcome == .good)
    }

    @Test func programsAndTheStoreAreJudged() {
        #expect(Finding.rulePrograms(hasNft: false, hasIptables: false).outcome == .degraded)
        #expect(Finding.rulePrograms(hasNft: true, hasIptables: false).detail == "nft")
        #expect(Finding.store("etcd", configuration: nil).remedy?.contains("network set") == true)
        #expect(Finding.store("etcd", configuration: #"{"Network":"10.66.0.0/16"}"#).outcome == .good)
        #expect(Finding.store("etcd", configuration: #"{"Network":"x"}"#).outcome == .bad)
        #expect(
            Finding.summary([Finding("a", .good, ""), Finding("b", .bad, ""), Finding("c", .good, "")])
                == "1 FAIL, 0 warn, 2 ok")
    }

    @Test func aLineSaysWhatToDo() {
        #expect(
            Finding("tun", .good, "a device can be made").line
                == "ok    tun               a device can be made")
        #expect(Finding("x", .bad, "0", remedy: "do this").line == "FAIL  x                 0: do this")
    }
}
