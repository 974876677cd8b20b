import Testing

@testable import NodeDaemon
@testable import twilld

/// Normalizes with the flags of `run`, an environment and the text of one configuration file.
private func normalize(
    _ words: [String], environment: [String: String] = [:], file: String? = nil
) throws(ExitFailure) -> FlagArguments {
    try FlagArguments(words, environment: environment, flags: Run.flags) { path throws(ExitFailure) in
        guard let file else { throw ExitFailure(.configuration, "no \(path)") }
        return file
    }
}

@Suite struct FlagArgumentsTests {
    @Test(arguments: [
        // One dash or two, a value inline or as the next word.
        (["-etcd-prefix=/a"], ["--etcd-prefix=/a"]),
        (["--etcd-prefix=/a"], ["--etcd-prefix=/a"]),
        (["-etcd-prefix", "/a"], ["--etcd-prefix=/a"]),
        (["--etcd-prefix", "/a"], ["--etcd-prefix=/a"]),
        (["-v", "3"], ["--v=3"]),
        (["-v=3"], ["--v=3"]),
        // The next word is the value even where it looks like a flag, as in Go.
        (["-etcd-prefix", "-ip-masq"], ["--etcd-prefix=-ip-masq"]),
        // A value keeps its own equals signs.
        (["-etcd-password=a=b"], ["--etcd-password=a=b"]),
        // Booleans stand alone, and never take the next word.
        (["-ip-masq"], ["--ip-masq=true"]),
        (["-ip-masq", "-v=1"], ["--ip-masq=true", "--v=1"]),
        (["--ip-masq=false"], ["--ip-masq=false"]),
        (["-ip-masq=T", "-ip-blackhole-route=0"], ["--ip-masq=true", "--ip-blackhole-route=false"]),
        // Repeated flags keep their order.
        (["-iface=eth0", "--iface", "eth1"], ["--iface=eth0", "--iface=eth1"]),
        // Of others the last counts.
        (["-v=1", "-mtu=1400", "-v=2"], ["--mtu=1400", "--v=2"]),
        (["-lease-dir=/a", "-lease-dir="], []),
        // An empty value is the default.
        (["-public-ip="], []),
        (["-public-ip", ""], []),
        // What is no flag of run goes on to ArgumentParser.
        (["-h"], ["--help"]),
        (["-w", "-"], ["-w", "-"]),
        (["-help"], ["--help"]),
        (["-version"], ["--version"]),
        (["-nonsense=1"], ["--nonsense=1"]),
        (["word", "--", "-v", "3"], ["word", "--", "-v", "3"]),
        ([], []),
    ])
    func goStyle(words: [String], normalized: [String]) throws {
        #expect(try normalize(words).normalized == normalized)
    }

    @Test func aMissingValueIsNamed() {
        #expect(throws: ExitFailure(.usage, "--iface needs a value: --iface=VALUE")) {
            try normalize(["-ip-masq", "-iface"])
        }
    }

    @Test func aBadBooleanIsNamed() {
        #expect(throws: ExitFailure(.usage, "--ip-masq takes true or false, not \"maybe\"")) {
            try normalize(["-ip-masq=maybe"])
        }
        #expect(throws: ExitFailure(.usage, "FLANNELD_IP_MASQ takes true or false, not \"maybe\"")) {
            try normalize([], environment: ["FLANNELD_IP_MASQ": "maybe"])
        }
    }

    @Test func everyFlagHasItsVariable() throws {
        for flag in Run.flags {
            let variable = flag.environmentName
            #expect(variable.allSatisfy { $0.isUppercase || $0 == "_" || $0.isNumber })
            let value = flag.kind == .boolean ? "1" : "7"
            let expected = "--\(flag.name)=\(flag.kind == .boolean ? "true" : "7")"
            #expect(try normalize([], environment: [variable: value]).normalized == [expected])
        }
        #expect(GoFlag("etcd-endpoints").environmentName == "FLANNELD_ETCD_ENDPOINTS")
    }

    @Test func theCommandLineWinsOverTheEnvironmentAndThatOverTheFile() throws {
        let file = "# the node's own\n\n v = 1 \nmtu=1400\r\niface = eth0\niface = eth1\nip-masq = true\n"
        let environment = [
            "FLANNELD_V": "2", "FLANNELD_MTU": "1300", "FLANNELD_ETCD_PREFIX": "",
            "FLANNELD_CONFIG": "/etc/twill",
        ]
        let arguments = try normalize(["-v=3"], environment: environment, file: file)
        #expect(
            arguments.normalized == ["--v=3", "--mtu=1300", "--iface=eth0", "--iface=eth1", "--ip-masq=true"])
        #expect(arguments.note(onFlag: "v") == nil)
        #expect(arguments.note(onFlag: "mtu") == "--mtu comes from the environment variable FLANNELD_MTU")
        #expect(arguments.note(onFlag: "ip-masq") == "--ip-masq comes from /etc/twill, line 7")
    }

    @Test func anEmptyFlagOnTheCommandLineStillHidesTheEnvironment() throws {
        #expect(
            try normalize(["-public-ip="], environment: ["FLANNELD_PUBLIC_IP": "10.0.0.1"]).normalized == [])
    }

    @Test func theDaemonsFileServesTheOtherCommandsToo() throws {
        let arguments = try FlagArguments(["--config", "/f"], environment: [:], flags: Check.flags) { _ in
            """
            lease-dir = /srv/twill
            ip-masq = true
            batch = 32
            """
        }
        #expect(arguments.normalized == ["--lease-dir=/srv/twill", "--batch=32"])
    }

    @Test(arguments: [
        ("mtu 1400", "/f, line 1: \"mtu 1400\" is not of the form name = value"),
        ("\nmut = 1400", "/f, line 2: there is no flag \"mut\"; did you mean mtu? see twilld run --help"),
        ("config = /g", "/f, line 1: there is no flag \"config\"; see twilld run --help"),
    ])
    func badFilesAreNamedByLine(text: String, message: String) {
        #expect(throws: ExitFailure(.configuration, message)) {
            try normalize(["--config", "/f"], file: text)
        }
    }
}
