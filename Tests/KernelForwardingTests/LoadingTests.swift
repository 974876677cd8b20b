import Addresses
import CKernelForwarding
import Forwarding
import Glibc
import KernelPrograms
import NetworkNamespaces
import Synchronization
import Testing

@testable import KernelForwarding

/// How the programs come into the kernel, and what is said where they do not.
@Suite struct LoadingTests {
    @Test func theInstructionsAreThoseOfThePrograms() throws {
        // Beside the sources of this file; the toolchain that builds it has the compiler.
        let root = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        #expect(throws: Never.self) { try execute("/\(root)/tools/generate-kernel-path --check") }
    }

    /// Its descriptors would stay open with it: whoever replaces data planes would run out of them.
    @Test(.enabled(if: namespacesAreExpected)) func oneThatIsStoppedIsLetGoOf() throws {
        weak var forwarder: KernelForwarder?
        do {
            let own = try KernelForwarder(
                underlay: Families.ipv4.endpoint(1), packetLimitBytes: 256, mtu: 1400)
            own.ask { _ in own.receives }
            own.stop()
            forwarder = own
        }
        #expect(forwarder == nil)
    }

    /// Whoever looks after its programs may look once more after its data plane has ended: those that it would pass are another
    /// one's packet threads then.
    @Test(.enabled(if: namespacesAreExpected)) func oneThatIsStoppedTakesNothingWhateverIsSaidOfItSince()
        throws
    {
        let forwarder = try KernelForwarder(
            underlay: Families.ipv4.endpoint(1), packetLimitBytes: 256, mtu: 1400)
        forwarder.publish(ForwardingRoutes(mtu: 1400, peers: []))
        forwarder.attached(underlayIndex: 1, tunnelIndex: 1)
        #expect(forwarder.receives)
        forwarder.stop()
        #expect(!forwarder.receives)
        forwarder.suspend(nil)
        forwarder.attached(underlayIndex: 1, tunnelIndex: 1)
        forwarder.refresh()
        #expect(!forwarder.receives)
    }

    @Test(.enabled(if: namespacesAreExpected), arguments: AddressFamily.allCases)
    func theKernelTakesThemAndDoesWhatItShould(underlay: AddressFamily) {
        #expect(throws: Never.self) { try KernelForwarder.probe(over: underlay) }
    }

    /// They have carried packets of nobody's by then.
    @Test(.enabled(if: namespacesAreExpected), arguments: AddressFamily.allCases)
    func nothingStaysOfTheTrial(underlay: AddressFamily) throws {
        let memory = try KernelPathMemory()
        let programs = try KernelForwardingPrograms.load(memory, over: underlay)
        defer { programs.close() }
        let settings = programs[KERNEL_MAP_SETTINGS].value(of: UInt32(0), startingWith: kernel_settings())
        #expect(settings?.valid_until == 0 && settings?.port == 0)
        for table in [KERNEL_MAP_TABLE, KERNEL_MAP_TABLE_IPV6] {
            #expect(programs[table].value(of: UInt32(0), startingWith: UInt32(0)) == nil)
        }
        for event in 0..<KERNEL_EVENTS.rawValue {
            let counts = programs[KERNEL_MAP_EVENTS].values(of: event, startingWith: UInt64(1))
            #expect(!counts.isEmpty && counts.allSatisfy { $0 == 0 }, "event \(event)")
        }
        let peers = programs[KERNEL_MAP_PEERS].values(of: 0, startingWith: kernel_peer_counts())
        #expect(!peers.isEmpty && peers.allSatisfy { $0.packets_sent == 0 && $0.packets_received == 0 })
        #expect(programs[KERNEL_MAP_AWAITED].value(of: UInt32(0), startingWith: UInt64(1)) == 0)
        let peer = Families(underlay: underlay, inner: .ipv4).endpoint(2)
        #expect(programs[KERNEL_MAP_ABLE].value(of: kernel_endpoint(peer), startingWith: UInt64(0)) == nil)
    }

    /// A kernel that is to check a program while a signal waits for the thread says so, and is to be asked again.
    @Test(.enabled(if: namespacesAreExpected)) func signalsKeepNoProgramOut() {
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { _ in }
        action.sa_flags = SA_RESTART
        var before = sigaction()
        sigaction(SIGWINCH, &action, &before)
        defer { sigaction(SIGWINCH, &before, nil) }
        let isOver = Atomic<Bool>(false)
        withUnsafePointer(to: isOver) { isOver in
            var disturbed = Disturbed(thread: pthread_self(), isOver: isOver)
            var thread = pthread_t()
            let result = pthread_create(
                &thread, nil,
                { argument in
                    // checked: what is passed below
                    let disturbed = argument!.assumingMemoryBound(to: Disturbed.self).pointee
                    while !disturbed.isOver.pointee.load(ordering: .relaxed) {
                        pthread_kill(disturbed.thread, SIGWINCH)
                        usleep(300)
                    }
                    return nil
                }, &disturbed)
            #expect(result == 0)
            for _ in 0..<20 { #expect(throws: Never.self) { try KernelForwarder.probe(over: .ipv4) } }
            isOver.pointee.store(true, ordering: .relaxed)
            pthread_join(thread, nil)
        }
    }

    private struct Disturbed {
        let thread: pthread_t
        let isOver: UnsafePointer<Atomic<Bool>>
    }

    @Test(.enabled(if: namespacesAreExpected)) func aProgramThatIsRefusedSaysWhy() {
        // exit, with nothing in the register that is returned.
        let code: [UInt64] = [0x95]
        code.withUnsafeBufferPointer { code in
            let error = #expect(throws: KernelProgramError.self) {
                try KernelProgram.load(code, mark: UInt32(KERNEL_MAP_MARK), maps: [], name: "twill_test")
            }
            #expect(error?.description.contains("R0 !read_ok") == true, "\(error.map { "\($0)" } ?? "")")
        }
    }
}
