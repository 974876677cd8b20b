import Glibc
import NetworkNamespaces
import Testing

@testable import NodeDaemon
@testable import twilld

/// What a daemon does where `kernel.io_uring_disabled` or a container's seccomp profile forbids io_uring.
@Suite(.enabled(if: namespacesAreExpected, "needs root")) struct ForbiddenUringTests {
    @Test(arguments: [EPERM, ENOSYS])
    func autoGoesOnWithPlainSystemCalls(errorNumber: Int32) async throws {
        let machine = try await TestMachine()
        try await machine.forbidUring(errorNumber: errorNumber)
        let daemon = try await machine.start()
        _ = try await daemon.ready()
        let lines = daemon.log.split(separator: "\n")
        #expect(lines.count { $0.contains("event=io_uring_is_not_to_be_had") } == 1)
        #expect(lines.contains { $0.contains("event=data_plane_started") && $0.contains("engine=mmsg") })
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
    }

    @Test(arguments: [EPERM, ENOSYS])
    func uringRefusesAndSaysWhatToDo(errorNumber: Int32) async throws {
        let machine = try await TestMachine()
        try await machine.forbidUring(errorNumber: errorNumber)
        let daemon = try await machine.start("-engine=uring")
        let expected: NodeDaemon.ExitStatus = errorNumber == EPERM ? .permission : .system
        #expect(try await daemon.exitStatus() == Int(expected.rawValue))
        #expect(daemon.log.contains("io_uring: cannot make a ring"))
        #expect(daemon.log.contains("the container's seccomp profile"))
        #expect(daemon.log.contains("--engine=auto"))
    }

    @Test func mmsgAsksForNoRing() async throws {
        let machine = try await TestMachine()
        try await machine.forbidUring(errorNumber: EPERM)
        let daemon = try await machine.start("-engine=mmsg")
        _ = try await daemon.ready()
        #expect(!daemon.log.contains("io_uring"))
        daemon.signal(SIGTERM)
        #expect(try await daemon.exitStatus() == 0)
    }
}
