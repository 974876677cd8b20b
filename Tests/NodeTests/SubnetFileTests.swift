import Addresses
import Glibc
import Testing

@testable import Node

@Suite struct SubnetFileTests {
    private let file = SubnetFile(
        network: IPv4Prefix("10.66.0.0/16")!, subnet: IPv4Prefix("10.66.28.0/24")!, mtu: 1472,
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

    @Test func theTextSurvivesARoundTrip() { #expect(SubnetFile(text: file.text) == file) }

    @Test func keysOfDualStackArePassedOver() {
        let text = """
            FLANNEL_NETWORK=10.66.0.0/16
            FLANNEL_SUBNET=10.66.28.1/24
            FLANNEL_IPV6_NETWORK=fd00::/48
            FLANNEL_IPV6_SUBNET=fd00:0:0:1::1/64
            FLANNEL_MTU=1472
            FLANNEL_IPMASQ=true
            """
        #expect(SubnetFile(text: text)?.masquerades == true)
    }

    @Test(arguments: [
        "", "FLANNEL_NETWORK=10.66.0.0/16",
        "FLANNEL_NETWORK=x\nFLANNEL_SUBNET=10.66.28.1/24\nFLANNEL_MTU=1\nFLANNEL_IPMASQ=true",
        "FLANNEL_NETWORK=10.66.0.0/16\nFLANNEL_SUBNET=10.66.28.1/24\nFLANNEL_MTU=1\nFLANNEL_IPMASQ=yes",
    ])
    func otherTextIsRefused(_ text: String) { #expect(SubnetFile(text: text) == nil) }

    @Test func writingMakesTheDirectoryAndReplacesAnOlderFile() throws {
        try withPath { path in
            #expect(try SubnetFile(path: path) == nil)
            try file.write(to: path)
            var other = file
            other.mtu = 1400
            let previousMask = umask(0o077)
            defer { umask(previousMask) }
            try other.write(to: path)
            #expect(try SubnetFile(path: path) == other)
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

    @Test func aFileThatIsDamagedIsAnErrorAndNotAbsent() throws {
        try withPath { path in
            try file.write(to: path)
            try TextFile.replace(path, with: "FLANNEL_NETWORK=\n", mode: 0o644)
            #expect(throws: SubnetFileError.self) { try SubnetFile(path: path) }
        }
    }

    @Test func dockerMasqueradesWhereTheDaemonDoesNot() {
        #expect(file.dockerOptions == ["--bip=10.66.28.1/24", "--ip-masq=true", "--mtu=1472"])
        var masquerading = file
        masquerading.masquerades = true
        #expect(masquerading.dockerOptions[1] == "--ip-masq=false")
    }
}
