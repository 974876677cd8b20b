import FoundationEssentials
import Glibc
import Kit
import NetworkNamespaces
import Testing

/// `subnet.env` is there for as long as the daemon runs (K9), and says which subnet to ask for (K5, K15).
@Suite(.enabled(if: namespacesAreExpected, "needs root and iproute2"))
struct SubnetFileTests {
    /// What somebody does to the file.
    private static let damages = [
        "rm subnet.env", ": > subnet.env", "echo FLANNEL_SUBNET=10.9.9.1/24 >> subnet.env",
        "rm subnet.env && mkdir subnet.env", "rm subnet.env && mkfifo subnet.env",
        "ln -sf /nonexistent subnet.env",
        "truncate -s 1G subnet.env",
    ]

    @Test func whateverHappensToTheFileItComesBack() async throws {
        let lab = try await Lab(nodes: 1)
        let daemon = try await lab.start("--iptables-resync=1")[0]
        let text = try #require(lab.read("node1/subnet.env"))
        for damage in Self.damages {
            try await lab[1].run("cd \(lab[1].directory) && \(damage)")
            _ = try await until("the file after \(damage)", { daemon.log }) { () -> Bool? in
                // Opening what stands there must not hang this test either.
                await lab[1].succeeds("test -f \(lab[1].directory)/subnet.env")
                    && lab.read("node1/subnet.env") == text ? true : nil
            }
        }
        let told = daemon.log.split(separator: "\n").filter {
            $0.contains("event=restored") && $0.contains("/subnet.env")
        }
        #expect(told.count >= 4, "\(daemon.log)")
        // Somebody who does it again and again is told of; the node is ready all the same.
        #expect(daemon.status?.isReady == true)
    }

    @Test func aFileSystemThatIsFullIsAProblemAndNothingMore() async throws {
        let lab = try await Lab(nodes: 1)
        let directory = lab.directory + "/small"
        try await lab[1].run("mkdir \(directory) && mount -t tmpfs -o size=64k tmpfs \(directory)")
        defer { umount2(directory, Int32(MNT_DETACH)) }
        let daemon = try await lab[1].start("--iptables-resync=1 --subnet-file \(directory)/subnet.env")
        try await daemon.healed()
        try await lab[1].run("rm \(directory)/subnet.env; head -c 1M /dev/zero >\(directory)/full || true")
        try await daemon.problem("cannot write \(directory)/subnet.env", "No space left on device")
        #expect(daemon.status?.isReady == true)
        try await lab[1].run("rm \(directory)/full")
        try await daemon.healed()
        try await lab[1].run("test -s \(directory)/subnet.env")
    }

    /// A node whose file cannot be written at its start takes no pods until it can; the daemon does not end.
    @Test func aReadOnlyFileSystemAtTheStartIsWaitedFor() async throws {
        let lab = try await Lab(nodes: 1)
        let directory = lab.directory + "/readonly"
        try await lab[1].run("mkdir \(directory) && mount -t tmpfs -o ro tmpfs \(directory)")
        defer { umount2(directory, Int32(MNT_DETACH)) }
        let daemon = try await lab[1].start("--iptables-resync=1 --subnet-file \(directory)/subnet.env")
        try await daemon.problem("cannot write \(directory)/subnet.env", "Read-only file system")
        #expect(daemon.status?.isReady == false)
        try await lab[1].run("mount -o remount,rw \(directory)")
        try await daemon.healed()
    }

    /// As flanneld takes it: the subnet alone, however it is written.
    @Test(arguments: [
        "FLANNEL_SUBNET=100.96.77.1/24\n", "export FLANNEL_SUBNET=\"100.96.77.1/24\" # kept\r\n",
    ])
    func theSubnetOfTheFileIsAskedFor(_ text: String) async throws {
        let lab = try await Lab(nodes: 1)
        try lab.write("node1/subnet.env", text)
        let daemon = try await lab.start()[0]
        #expect(daemon.status?.lease?.subnet == "100.96.77.0/24")
    }

    @Test func aFifoInThePlaceOfTheFileHoldsNobodyUp() async throws {
        let lab = try await Lab(nodes: 1)
        try await lab[1].run("mkfifo \(lab[1].directory)/subnet.env")
        let daemon = try await lab.start()[0]
        try await daemon.logged("event=previous_subnet_not_known")
        #expect(lab.read("node1/subnet.env")?.contains("FLANNEL_SUBNET=") == true)
    }
}
