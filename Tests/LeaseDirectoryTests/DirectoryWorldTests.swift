import Foundation
import Glibc
import Health
import LeaseTesting
import Leases
import Synchronization
import Testing

@testable import LeaseDirectory

private let day = Duration.seconds(86_400)

private func value(_ address: String) -> String { #"{"PublicIP":"\#(address)","PublicIPv6":null}"# }

/// A clock that a test sets.
private final class TestClock: Sendable {
    private let time = Mutex(Duration.seconds(1_000))
    var now: Duration { time.withLock { $0 } }
    func advance(by duration: Duration) { time.withLock { $0 += duration } }
    var clocks: DirectoryStore.Clocks { .init(monotonic: { self.now }) }
}

extension TestDirectory {
    func store(
        _ clocks: DirectoryStore.Clocks = .init(), limit: Duration = .seconds(10),
        hook: @escaping @Sendable () -> Void = {}
    ) -> DirectoryStore {
        DirectoryStore(path: path, answerLimit: limit, clocks: clocks, hook: hook)
    }

    /// Sets a file's modification time to `seconds` since 1970.
    func setTime(_ name: String, seconds: Int) {
        utimensat(
            AT_FDCWD, "\(path)/\(name)",
            [timespec(tv_sec: seconds, tv_nsec: 0), timespec(tv_sec: seconds, tv_nsec: 0)], 0)
    }
}

@Suite("K6: what the world does to a directory store")
struct DirectoryWorldTests {
    private let holder = NodeIdentity(number: 7)

    // MARK: Clocks

    @Test("two daemons whose clocks are an hour, or days, apart: nothing is lost, and the odd one is said")
    func clocksApart() async throws {
        for offset in [-3_600, 3_600, -172_800, 259_200] {
            let directory = try TestDirectory()
            let right = TestNode("198.18.9.1", store: directory.store())
            let wrong = TestNode(
                "198.18.9.2",
                store: directory.store(
                    .init(wall: { WallTime(seconds: WallTime.now.seconds + offset, nanoseconds: 0) })))
            let subnets = [try await right.subnet(), try await wrong.subnet()]
            try await right.wait(for: "the peer") { $0.peers.map(\.subnet) == [subnets[1]] }
            let table = try await wrong.wait(for: "the clock") {
                $0.peers.map(\.subnet) == [subnets[0]] && $0.conditions[Component(.clock)] != nil
            }
            #expect(table.conditions[Component(.clock)]?.effect == .degraded)
            #expect(right.table.problems == [])
            #expect(try directory.names("subnets") == subnets.map(\.key).sorted())
            // Its lease's end is by the file system's clock.
            let end = try status(of: directory.store().subnets.appending(subnets[1].key)).modified
            #expect(end - .now > .seconds(86_000) && end - .now < .seconds(86_500))
        }
    }

    @Test("two daemons whose clocks are an hour apart, for days: nobody's lease ends, whoever looks")
    func clocksApartForDays() async throws {
        for offset in [-3_600, 3_600] {
            let directory = try TestDirectory()
            let clock = TestClock()
            let wrong = DirectoryStore.Clocks(
                monotonic: { clock.now },
                wall: { WallTime(seconds: WallTime.now.seconds + offset, nanoseconds: 0) })
            let stores = [directory.store(clock.clocks), directory.store(wrong)]
            for (number, store) in stores.enumerated() {
                _ = try await store.create(
                    key: "10.66.\(number).0-24", value: value("198.18.9.\(number)"), timeToLive: day,
                    holder: NodeIdentity(number: UInt32(number + 1)))
            }
            var least = Duration.seconds(86_400)
            for hour in 1...100 {
                clock.advance(by: .seconds(3_600))
                for (number, store) in stores.enumerated() {
                    let entries = try await store.snapshot().entries
                    #expect(entries.count == 2)
                    for entry in entries {
                        guard case .expiring(let remaining?) = entry.lifetime else {
                            Issue.record("\(entry.key) does not end")
                            continue
                        }
                        least = min(least, remaining)
                    }
                    // An hour before its end, as a daemon does it.
                    guard hour % 23 == 0, let own = entries.first(where: { $0.key == "10.66.\(number).0-24" })
                    else { continue }
                    let result = try await store.renew(
                        key: own.key, value: own.value, timeToLive: day,
                        holder: NodeIdentity(number: UInt32(number + 1)), version: own.version)
                    guard case .done = result else {
                        Issue.record("\(own.key) was not renewed: \(result)")
                        continue
                    }
                }
            }
            // A lease that is renewed every 23 hours is seen an hour before its end at the latest.
            #expect(least >= .seconds(3_590), "\(least)")
        }
    }

    @Test(
        "a lease that was not renewed for a lease's time while it was watched is released, one that was is not"
    )
    func observedEnd() async throws {
        let directory = try TestDirectory()
        let clock = TestClock()
        let store = directory.store(clock.clocks)
        for key in ["10.66.1.0-24", "10.66.2.0-24"] {
            _ = try await store.create(key: key, value: value("198.18.9.9"), timeToLive: day, holder: holder)
        }
        func remaining(_ key: String) async throws -> Duration? {
            let entry = try await store.snapshot().entries.first { $0.key == key }
            guard case .expiring(let remaining) = entry?.lifetime else { return nil }
            return remaining
        }
        _ = try await store.snapshot()
        clock.advance(by: .seconds(80_000))
        let version = try #require(try await store.snapshot().entries.first { $0.key == "10.66.2.0-24" })
            .version
        _ = try await store.renew(
            key: "10.66.2.0-24", value: value("198.18.9.9"), timeToLive: day, holder: holder, version: version
        )
        clock.advance(by: .seconds(7_000))
        #expect(try #require(try await remaining("10.66.1.0-24")) < .seconds(-500))
        #expect(try #require(try await remaining("10.66.2.0-24")) > .seconds(79_000))
        // A store that has just begun to watch knows of no end, whatever times the files have.
        let fresh = TestNode("198.18.9.1", store: directory.store())
        _ = try await fresh.subnet()
        let old = TestNode("198.18.9.2", store: store)
        let subnet = try await old.subnet()
        try await eventually("the release") { try !directory.names("subnets").contains("10.66.1.0-24") }
        #expect(try directory.names("subnets").contains("10.66.2.0-24"))
        #expect(try directory.names("subnets").contains(subnet.key))
        #expect(fresh.log.count(of: .leaseReleased) == 0)
    }

    @Test(
        "files with times of long ago and far ahead, to the ends of the numbers, trap nothing and cost nobody anything"
    )
    func extremeTimes() async throws {
        let directory = try TestDirectory()
        let store = directory.store()
        for (number, seconds) in [Int.min, Int.max, -1, 0, 1 << 40, -(1 << 31), 17_000_000_000].enumerated() {
            let key = "10.66.\(number + 1).0-24"
            _ = try await store.create(
                key: key, value: value("198.18.9.\(number + 100)"), timeToLive: day, holder: holder)
            directory.setTime("subnets/\(key)", seconds: seconds)
        }
        let node = TestNode("198.18.9.1", store: directory.store())
        _ = try await node.subnet()
        try await node.wait(for: "the peers") { $0.peers.count == 7 }
        #expect(try await LeaseOperations(store: store).list().count == 8)
        #expect(try directory.names("subnets").count == 8)
        // The kernel clamps what a file system cannot hold; these it cannot get to see.
        for time in [
            timespec(tv_sec: .min, tv_nsec: .min), timespec(tv_sec: .max, tv_nsec: .max),
            timespec(tv_sec: 0, tv_nsec: -1),
        ] {
            let wall = WallTime(time)
            _ = (
                wall - .now, WallTime.now - wall, wall + day, wall + .seconds(Int64.min),
                wall + .seconds(Int64.max)
            )
            #expect(!wall.description.isEmpty)
        }
    }

    // MARK: Watching

    @Test("an unlink right after a write of this node's own is seen, each time")
    func unlinkAfterWrite() async throws {
        for _ in 0..<10 {
            let directory = try TestDirectory()
            let store = directory.store()
            let node = TestNode("198.18.9.1", store: store)
            let subnet = try await node.wait(for: "a lease") { $0.ownLease != nil }.ownLease!.subnet
            try? directory.remove("subnets/\(subnet.key)")
            try await node.wait(for: "the same lease again") { _ in
                node.log.count(of: .leaseIsGone) == 1
                    && (try? directory.names("subnets")) == [subnet.key]
            }
        }
    }

    @Test("a write that is undone before the watch looks is told as a deletion")
    func baselineHasOwnWrites() async throws {
        let directory = try TestDirectory()
        let store = directory.store()
        let snapshot = try await store.snapshot()
        var isFirst = true
        for try await update in store.watch(after: snapshot.position) {
            if isFirst {
                isFirst = false
                _ = try await store.create(
                    key: "10.66.1.0-24", value: value("198.18.9.1"), timeToLive: day, holder: holder)
                try directory.remove("subnets/10.66.1.0-24")
                continue
            }
            guard case .changes(let events, _) = update else { continue }
            #expect(events.last == .deleted(key: "10.66.1.0-24"))
            return
        }
    }

    // MARK: What is no file

    @Test(
        "a FIFO, a socket, a directory, a link, a device, a huge file among the leases: each skipped by name, no wait"
    )
    func noFiles() async throws {
        let directory = try TestDirectory()
        let subnets = directory.path + "/subnets/"
        #expect(mkfifo(subnets + "10.66.200.0-24", 0o644) == 0)
        #expect(mkdir(subnets + "10.66.201.0-24", 0o755) == 0)
        #expect(symlink("/etc/passwd", subnets + "10.66.202.0-24") == 0)
        #expect(mknod(subnets + "10.66.203.0-24", S_IFCHR | 0o600, dev_t(1 << 8 | 5)) == 0)
        try directory.write("subnets/10.66.204.0-24", String(repeating: " ", count: 1 << 20))
        #expect(symlink("10.66.205.0-24", subnets + "10.66.205.0-24") == 0)
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        // A socket's path is short: by way of the descriptor of the directory.
        let opened = open(subnets, O_RDONLY | O_DIRECTORY)
        defer { close(opened) }
        withUnsafeMutableBytes(of: &address.sun_path) {
            $0.copyBytes(from: "/proc/self/fd/\(opened)/10.66.206.0-24".utf8)
        }
        let bound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        #expect(bound == 0)
        try directory.write("subnets/10.66.210.0-24", value("198.18.9.9"))
        let node = TestNode("198.18.9.1", store: directory.store())
        _ = try await node.subnet()
        let table = try await node.wait(for: "the skipped") { $0.skipped.count == 7 && $0.peers.count == 1 }
        let words = [
            "a FIFO", "a directory", "a symbolic link", "a device", "larger than", "a symbolic link",
            "a socket",
        ]
        for (skipped, word) in zip(table.skipped, words) {
            #expect(skipped.reason.contains(word), "\(skipped)")
        }
        #expect(table.isStoreConnected)
        try directory.write("subnets/10.66.211.0-24", value("198.18.9.10"))
        try await node.wait(for: "another peer") { $0.peers.count == 2 }
        // Nor does a person's list wait.
        #expect(try await LeaseOperations(store: directory.store()).list().count == 10)
    }

    @Test("a config that is none is said, and the one before it stays")
    func configIsNoFile() async throws {
        let directory = try TestDirectory()
        let node = TestNode("198.18.9.1", store: directory.store())
        _ = try await node.subnet()
        try directory.remove("config")
        #expect(mkfifo(directory.path + "/config", 0o644) == 0)
        try await node.wait(for: "the problem") {
            $0.problems.contains { $0.contains("config: it is a FIFO") }
        }
        #expect(node.table.ownLease != nil)
    }

    // MARK: Away

    @Test(
        "emptied, as a mount point is when its file system is not there: every peer stays, nothing is written there"
    )
    func unmounted() async throws {
        let directory = try TestDirectory()
        let node = TestNode("198.18.9.1", store: directory.store())
        let subnet = try await node.subnet()
        for number in 200...202 {
            try directory.write("subnets/10.66.\(number).0-24", value("198.18.9.\(number)"))
        }
        try await node.wait(for: "the peers") { $0.peers.count == 3 }
        let away = directory.path + "-away"
        try FileManager.default.moveItem(atPath: directory.path, toPath: away)
        try FileManager.default.createDirectory(atPath: directory.path, withIntermediateDirectories: true)
        try await node.wait(for: "the doubt") {
            $0.conditions[Component(.store, "lost leases")] != nil
                && $0.conditions[Component(.configuration)] != nil
        }
        try await node.wait(for: "the refusal to write") {
            $0.problems.contains { $0.contains("is it mounted?") }
        }
        #expect(node.table.peers.count == 3)
        #expect(try directory.names("") == [])
        try FileManager.default.removeItem(atPath: directory.path)
        try FileManager.default.moveItem(atPath: away, toPath: directory.path)
        try await node.wait(for: "all well") {
            $0.problems == [] && $0.peers.count == 3 && $0.isStoreConnected
        }
        #expect(node.table.ownLease?.subnet == subnet)
    }

    @Test("rm -rf of all leases: those of others stay peers, one that is removed by itself goes")
    func emptied() async throws {
        let directory = try TestDirectory()
        let node = TestNode("198.18.9.1", store: directory.store())
        _ = try await node.subnet()
        for number in 200...203 {
            try directory.write("subnets/10.66.\(number).0-24", value("198.18.9.\(number)"))
        }
        try await node.wait(for: "the peers") { $0.peers.count == 4 }
        try directory.remove("subnets/10.66.203.0-24")
        try await node.wait(for: "one less") { $0.peers.count == 3 && $0.problems == [] }
        for name in try directory.names("subnets") { try directory.remove("subnets/\(name)") }
        try await node.wait(for: "the doubt") { $0.conditions[Component(.store, "lost leases")] != nil }
        #expect(node.table.peers.count >= 3)
    }

    @Test("a server of files that hangs: said since when, peers stay, and all goes on when it answers")
    func hung() async throws {
        let directory = try TestDirectory()
        let gate = Mutex(())
        let isHung = Mutex(false)
        let store = directory.store(limit: .milliseconds(300)) {
            // Blocks this thread, as a read from a dead server does.
            if isHung.withLock({ $0 }) { gate.withLock { _ in } }
        }
        let node = TestNode("198.18.9.1", store: store)
        _ = try await node.subnet()
        try directory.write("subnets/10.66.200.0-24", value("198.18.9.9"))
        try await node.wait(for: "the peer") { $0.peers.count == 1 }
        let release = DispatchSemaphore(value: 0)
        let taken = DispatchSemaphore(value: 0)
        Thread.detachNewThread {
            gate.withLock { _ in
                taken.signal()
                release.wait()
            }
        }
        await withCheckedContinuation { continuation in
            DispatchQueue.global().async {
                taken.wait()
                continuation.resume()
            }
        }
        isHung.withLock { $0 = true }
        try await node.wait(for: "the problem") {
            $0.problems.contains { $0.contains("has not answered since") }
        }
        #expect(node.table.peers.count == 1 && node.table.ownLease != nil)
        isHung.withLock { $0 = false }
        release.signal()
        try directory.write("subnets/10.66.201.0-24", value("198.18.9.10"))
        try await node.wait(for: "all well") { $0.problems == [] && $0.peers.count == 2 }
    }

    // MARK: Left over

    /// A test has no other task to hold up.
    private func collectOrphans(_ store: DirectoryStore) { store.collectOrphans() }

    private func status(of path: FilePath) throws -> FilePath.Status { try #require(try path.status()) }

    @Test("what a killed daemon left among the holders is removed, what is in use is not")
    func orphans() async throws {
        let directory = try TestDirectory()
        let clock = TestClock()
        let store = directory.store(clock.clocks)
        _ = try await store.create(
            key: "10.66.1.0-24", value: value("198.18.9.1"), timeToLive: day, holder: holder)
        try directory.write("holders/10.66.9.0-24~00000007~00000001", "left over")
        try directory.write("holders/.0000000100000002", "left over")
        collectOrphans(store)
        clock.advance(by: .seconds(300))
        collectOrphans(store)
        #expect(try directory.names("holders").count == 3)
        clock.advance(by: .seconds(400))
        collectOrphans(store)
        #expect(try directory.names("holders").count == 1)
        #expect(try await store.snapshot().entries.map(\.holder) == [holder])
    }

    // MARK: Reservations

    @Test("a held subnet is reserved for its holder, who keeps it and stays as it is")
    func reserveHeld() async throws {
        let directory = try TestDirectory()
        let node = TestNode("198.18.9.1", store: directory.store(), port: 9000)
        let subnet = try await node.subnet()
        let operations = LeaseOperations(store: directory.store())
        await #expect(throws: LeaseOperationError.self) {
            try await operations.reserve(subnet, publicAddress: .v4(.init("198.18.9.9")!))
        }
        try await operations.reserve(subnet, publicAddress: .v4(.init("198.18.9.1")!))
        try await node.wait(for: "the reservation") { $0.ownLease?.isReservation == true }
        #expect(node.table.ownLease?.subnet == subnet)
        #expect(try directory.names("holders") == [])
        #expect(try directory.read("subnets/\(subnet.key)").contains("9000"))
        #expect(try await operations.list().map(\.isReservation) == [true])
    }
}
