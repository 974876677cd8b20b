import Addresses
import Glibc
import Health
import Netlink
import Reconciler
import Testing

@testable import Host
@testable import Node

@Suite struct SubnetFileTests {
    private let file = SubnetFile(
        ipv4: .init(network: IPv4Prefix("10.66.0.0/16")!, subnet: IPv4Prefix("10.66.28.0/24")!), mtu: 1472,
        masquerades: false)

    /// Calls `body` with a path in a directory that does not exist yet, and removes all of it afterwards.
    private func withPath(_ body: (String) throws -> Void) throws {
        var template = Array("/tmp/node-subnet-XXXXXX".utf8CString)
        let directory = String(cString: try #require(mkdtemp(&template)))
        defer {
            unlink("\(directory)/run/flannel/subnet.env")
            for part in ["/run/flannel", "/run", ""] { rmdir(directory + part) }
        }
        try body("\(directory)/run/flannel/subnet.env")
    }

    @Test func theTextIsFlannels() {
        #expect(
            file.text == """
                FLANNEL_NETWORK=10.66.0.0/16
                FLANNEL_SUBNET=10.66.28.1/24
                FLANNEL_MTU=1472
                FLANNEL_IPMASQ=false

                """)
    }

    @Test func aDualStackNetworkHasItsLinesBeforeTheMTU() {
        var dual = file
        dual.ipv6 = .init(
            network: IPv6Prefix("fd00:10:66::/48")!, subnet: IPv6Prefix("fd00:10:66:1c::/64")!)
        #expect(
            dual.text == """
                FLANNEL_NETWORK=10.66.0.0/16
                FLANNEL_SUBNET=10.66.28.1/24
                FLANNEL_IPV6_NETWORK=fd00:10:66::/48
                FLANNEL_IPV6_SUBNET=fd00:10:66:1c::1/64
                FLANNEL_MTU=1472
                FLANNEL_IPMASQ=false

                """)
    }

    private func values(of file: SubnetFile) -> SubnetFileValues { SubnetFileValues(text: file.text) }

    @Test func whatIsWrittenIsRead() {
        let values = values(of: file)
        #expect(
            values.network == file.ipv4?.network && values.subnet == file.ipv4?.subnet && values.mtu == 1472)
        #expect(values.masquerades == false)
    }

    /// flanneld reads the file with a dotenv reader, and needs nothing of it but the subnet.
    @Test(arguments: [
        "FLANNEL_SUBNET=10.66.28.1/24", "FLANNEL_SUBNET=\"10.66.28.1/24\"\n",
        "FLANNEL_SUBNET='10.66.28.1/24' # old",
        "export FLANNEL_SUBNET=10.66.28.1/24", "  FLANNEL_SUBNET = 10.66.28.1/24  ",
        "FLANNEL_SUBNET=10.66.28.1/24 # x",
        "FLANNEL_NETWORK=x\r\nFLANNEL_SUBNET=10.66.28.1/24\r\nFLANNEL_MTU=\r\n",
        "# FLANNEL_SUBNET=10.66.9.1/24\nnonsense\n=\n\nFLANNEL_SUBNET=10.66.28.1/24\nFLANNEL_IPMASQ=yes",
        "\u{FEFF}FLANNEL_SUBNET=10.66.28.0/24", "FLANNEL_SUBNET=10.66.9.1/24\nFLANNEL_SUBNET=10.66.28.1/24",
        "FLANNEL_SUBNET=nonsense,10.66.28.1/24",
    ])
    func theSubnetIsTakenAsFlanneldTakesIt(_ text: String) {
        #expect(SubnetFileValues(text: text).subnet == IPv4Prefix("10.66.28.0/24")!)
    }

    @Test(arguments: [
        "", "FLANNEL_SUBNET=", "FLANNEL_SUBNET=10.66.28.1", "FLANNEL_SUBNET=\"10.66.28.1/24",
        "FLANNEL_SUBNET=::/64",
        "FLANNEL_SUBNETS=10.66.28.1/24", "FLANNEL_SUBNET=10.66.28.1/33", "#FLANNEL_SUBNET=10.66.28.1/24",
    ])
    func whatIsNoSubnetIsNone(_ text: String) { #expect(SubnetFileValues(text: text).subnet == nil) }

    @Test func writingMakesTheDirectoryAndReplacesAnOlderFile() throws {
        try withPath { path in
            #expect(try SubnetFileValues(path: path) == nil)
            try file.write(to: path)
            var other = file
            other.mtu = 1400
            let previousMask = umask(0o077)
            defer { umask(previousMask) }
            try other.write(to: path)
            #expect(try SubnetFileValues(path: path)?.mtu == 1400)
            var status = stat()
            #expect(stat(path, &status) == 0)
            #expect(status.st_mode & 0o7777 == 0o644)
            // No temporary file is left: the directory can be removed once the file is gone.
            #expect(unlink(path) == 0)
            #expect(rmdir(String(path.dropLast("/subnet.env".count))) == 0)
        }
    }

    @Test func whatIsInTheWayIsNamed() throws {
        let error = #expect(throws: SubnetFileError.self) { try file.write(to: "/proc/version/subnet.env") }
        #expect(
            error?.description
                == "cannot write /proc/version/subnet.env: Not a directory; --subnet-file names another place"
        )
    }

    /// A FIFO would hold whoever opens it; a large file would fill the memory.
    @Test func whatIsNoSmallPlainFileIsNotRead() throws {
        try withPath { path in
            try file.write(to: path)
            unlink(path)
            #expect(mkfifo(path, 0o600) == 0)
            #expect(throws: SubnetFileError.self) { try SubnetFileValues(path: path) }
            unlink(path)
            try TextFile.replace(path, with: String(repeating: "x", count: 100_000), mode: 0o644)
            #expect(throws: SubnetFileError.self) { try SubnetFileValues(path: path) }
        }
    }

    @Test func aDirectoryInItsPlaceGoes() throws {
        try withPath { path in
            try file.write(to: path)
            unlink(path)
            #expect(mkdir(path, 0o755) == 0)
            try file.write(to: path)
            #expect(try SubnetFileValues(path: path)?.subnet == file.ipv4?.subnet)
            unlink(path)
            #expect(mkdir(path, 0o755) == 0 && mkdir(path + "/x", 0o755) == 0)
            let error = #expect(throws: SubnetFileError.self) { try file.write(to: path) }
            #expect(error?.description.contains("a directory that is not empty") == true)
            rmdir(path + "/x")
            rmdir(path)
        }
    }

    /// Somebody guesses the name of the temporary file and puts a link there, to have the daemon write elsewhere.
    @Test func nobodysLinkIsWrittenThrough() throws {
        try withPath { path in
            try file.write(to: path)
            let victim = path + ".victim"
            defer { unlink(victim) }
            try TextFile.replace(victim, with: "kept", mode: 0o644)
            let guess = "\(path).\(getpid())"
            symlink(victim, guess)
            defer { unlink(guess) }
            try file.write(to: path)
            #expect(try TextFile.read(victim) == "kept")
        }
    }

    /// In a directory that everybody may write to, another user's link leads to a directory of the system's.
    @Test(.enabled(if: geteuid() == 0, "needs root, to be another user"))
    func anotherUsersDirectoryIsNotGoneThrough() throws {
        try withPath { path in
            try file.write(to: path)
            let base = TextFile.split(path).directory
            let open = base + "/open"
            #expect(mkdir(open, 0o700) == 0 && chmod(open, 0o1777) == 0)
            defer { rmdir(open) }
            symlink(base, open + "/link")
            #expect(lchown(open + "/link", 65534, 65534) == 0)
            defer { unlink(open + "/link") }
            let error = #expect(throws: SubnetFileError.self) { try file.write(to: open + "/link/other.env") }
            #expect(
                error?.description.contains("link on the way to it belongs to another user (65534)") == true)
            #expect(access(base + "/other.env", F_OK) != 0)
            // One's own link, and one in a directory of one's own, lead where they shall.
            #expect(lchown(open + "/link", 0, 0) == 0)
            try file.write(to: open + "/link/other.env")
            #expect(unlink(base + "/other.env") == 0)
        }
    }

    @Test func theKeptFileIsPutBackWhateverHappenedToIt() throws {
        try withPath { path in
            let kept = KeptSubnetFile(file, at: path)
            let socket = try RouteSocket()
            func restored(_ expected: String) throws {
                #expect(kept.deviation(in: NetworkState()) == expected)
                try kept.update(in: NetworkState(), using: socket)
                #expect(kept.deviation(in: NetworkState()) == nil)
                #expect(try TextFile.read(path) == file.text)
            }
            try restored("missing")
            #expect(unlink(path) == 0)
            try restored("missing")
            #expect(truncate(path, 0) == 0)
            try restored("changed by somebody")
            try TextFile.replace(path, with: file.text + "FLANNEL_SUBNET=10.9.9.1/24\n", mode: 0o644)
            try restored("changed by somebody")
            #expect(unlink(path) == 0 && mkdir(path, 0o755) == 0)
            try restored("it is no plain file")
        }
    }

    @Test func aFileThatCannotBeWrittenIsAProblem() throws {
        let kept = KeptSubnetFile(file, at: "/proc/version/subnet.env")
        let socket = try RouteSocket()
        let error = #expect(throws: ItemProblem.self) { try kept.update(in: NetworkState(), using: socket) }
        #expect(error?.problem.effect == .cutOff)
        #expect(
            error?.problem.cause.contains("cannot write /proc/version/subnet.env: Not a directory") == true)
        #expect(kept.failure?.isHopeless == true)
        let later = KeptSubnetFile(file, at: "/proc/version/subnet.env", wasInPlace: true)
        #expect(later.effect == .degraded)
    }

    @Test func dockerMasqueradesWhereTheDaemonDoesNot() {
        #expect(values(of: file).dockerOptions == ["--bip=10.66.28.1/24", "--ip-masq=true", "--mtu=1472"])
        var masquerading = file
        masquerading.masquerades = true
        #expect(values(of: masquerading).dockerOptions[1] == "--ip-masq=false")
        #expect(
            values(of: masquerading).dockerEnvironment(
                key: "OPTS", isEachNamed: true, omitsMasquerading: false)
                    == """
                    DOCKER_OPT_BIP="--bip=10.66.28.1/24"
                    DOCKER_OPT_IPMASQ="--ip-masq=false"
                    DOCKER_OPT_MTU="--mtu=1472"
                    OPTS=" --bip=10.66.28.1/24 --ip-masq=false --mtu=1472 "

                    """)
        #expect(
            values(of: masquerading).dockerEnvironment(key: nil, isEachNamed: true, omitsMasquerading: true)
                == "DOCKER_OPT_BIP=\"--bip=10.66.28.1/24\"\nDOCKER_OPT_MTU=\"--mtu=1472\"\n")
    }
}
