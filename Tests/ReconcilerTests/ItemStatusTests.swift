import Addresses
import Health
import Logging
import Netlink
import NetworkNamespaces
import Synchronization
import Testing

@testable import Reconciler

/// What the reconciler keeps of each item, with items that do as they are told.
@Suite(
    .enabled(if: namespacesAreExpected, "network namespaces need root and iproute2"), .timeLimit(.minutes(1)))
struct ItemStatusTests {
    /// An item that fails for as long as it is told to, and notes what is asked of it.
    private final class Item: OwnedItem {
        let name: String
        let isFailing = Mutex(false)
        let isThere = Mutex(false)
        var component: Component { Component(.setting, name) }

        init(_ name: String) { self.name = name }

        func deviation(in _: NetworkState) -> String? { isThere.withLock { $0 } ? nil : "missing" }

        func update(in _: NetworkState, using _: RouteSocket) throws {
            if isFailing.withLock({ $0 }) { throw NetlinkError(operation: "make \(name)", code: 1) }
            isThere.withLock { $0 = true }
        }

        func delete(using _: RouteSocket) throws {
            if isFailing.withLock({ $0 }) { throw NetlinkError(operation: "take \(name) away", code: 1) }
            isThere.withLock { $0 = false }
        }
    }

    private func reconciler() throws -> Reconciler {
        Reconciler(
            socket: try RouteSocket(), health: NodeHealth(),
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
            resyncInterval: .seconds(5))
    }

    private func pass(_ reconciler: Reconciler) throws -> Reconciler.Outcome {
        try reconciler.update(in: NetworkState(), isResync: true, isFirstTime: false) { _ in NetworkState() }
    }

    @Test func anItemThatFailsKeepsItsErrorAndHowOften() throws {
        let reconciler = try reconciler()
        let (bad, good) = (Item("a"), Item("b"))
        bad.isFailing.withLock { $0 = true }
        reconciler.replace(with: [good, bad])
        for retries in 0..<3 {
            #expect(try pass(reconciler).failure is NetlinkError)
            let statuses = reconciler.statuses.all
            #expect(statuses.map(\.item) == ["a", "b"] && statuses.map(\.state) == [.failing, .good])
            #expect(statuses.map(\.retries) == [retries, 0])
            #expect(statuses[0].lastError?.contains("cannot make a: ") == true)
            #expect(statuses[1].lastError == nil)
        }
        let since = reconciler.statuses.all[0].since
        bad.isFailing.withLock { $0 = false }
        #expect(try pass(reconciler).failure == nil)
        let mended = try #require(reconciler.statuses.all.first)
        #expect(mended.state == .good && mended.lastError == nil && mended.retries == 0)
        #expect(mended.since > since)
    }

    @Test func whatCannotBeTakenAwayIsTriedAgainAndTold() throws {
        let reconciler = try reconciler()
        let item = Item("a")
        reconciler.replace(with: [item])
        _ = try pass(reconciler)
        item.isFailing.withLock { $0 = true }
        reconciler.replace(with: [])
        for retries in 0..<2 {
            #expect(reconciler.deleteUnwanted())
            #expect(reconciler.statuses.all.map(\.state) == [.leaving])
            #expect(reconciler.statuses.all.map(\.retries) == [retries])
        }
        item.isFailing.withLock { $0 = false }
        #expect(reconciler.deleteUnwanted())
        #expect(reconciler.statuses.all.isEmpty && !item.isThere.withLock { $0 })
        #expect(!reconciler.deleteUnwanted())
    }

    @Test func whatIsWantedAgainIsNotTakenAway() throws {
        let reconciler = try reconciler()
        let item = Item("a")
        reconciler.replace(with: [item])
        _ = try pass(reconciler)
        reconciler.replace(with: [])
        reconciler.replace(with: [item])
        #expect(!reconciler.deleteUnwanted())
        #expect(item.isThere.withLock { $0 })
    }
}
