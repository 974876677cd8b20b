import Glibc
import Kit
import Testing

@testable import NodeDaemon

@Suite struct ServiceNotificationTests {
    @Test(arguments: ["/tmp/twill-test-notify-\(getpid())", "@twill-test-notify-\(getpid())"])
    func everythingIsTold(name: String) {
        let socket = NotifySocket(name)
        let notification = ServiceNotification(environment: ["NOTIFY_SOCKET": name])
        notification.ready(status: "subnet 10.66.28.0/24")
        notification.status("one peer")
        notification.watchdog()
        notification.stopping()
        #expect(socket.next() == "READY=1\nSTATUS=subnet 10.66.28.0/24")
        #expect(socket.next() == "STATUS=one peer")
        #expect(socket.next() == "WATCHDOG=1")
        #expect(socket.next() == "STOPPING=1")
        #expect(socket.next() == nil)
    }

    /// The network's configuration and a store's errors reach the status: none of it becomes a variable of
    /// its own.
    @Test func aTextWithLineEndsIsOneVariable() {
        let name = "@twill-test-lines-\(getpid())"
        let socket = NotifySocket(name)
        let notification = ServiceNotification(environment: ["NOTIFY_SOCKET": name])
        notification.status("x\nWATCHDOG=trigger\nY=1")
        notification.ready(status: "a\r\nSTOPPING=1\u{2028}\u{1b}[2J")
        notification.status(String(repeating: "y", count: 100_000))
        #expect(socket.next() == "STATUS=x\\u{a}WATCHDOG=trigger\\u{a}Y=1")
        #expect(socket.next() == "READY=1\nSTATUS=a\\u{d}\\u{a}STOPPING=1\\u{2028}\\u{1b}[2J")
        #expect(socket.next()?.count == 1007)
    }

    @Test func nobodyToTellIsNoError() {
        // The longest name that a socket can have: a longer one is nobody's, and not that one's because it begins alike.
        let start = "/tmp/twill-test-longest-\(getpid())-"
        let longest = start + String(repeating: "x", count: 107 - start.utf8.count)
        let socket = NotifySocket(longest)
        ServiceNotification(environment: [:]).ready(status: "")
        ServiceNotification(environment: ["NOTIFY_SOCKET": "/nowhere/at/all"]).watchdog()
        for more in ["x", String(repeating: "x", count: 200)] {
            ServiceNotification(environment: ["NOTIFY_SOCKET": longest + more]).watchdog()
        }
        #expect(socket.next() == nil)
        ServiceNotification(environment: ["NOTIFY_SOCKET": longest]).watchdog()
        #expect(socket.next() == "WATCHDOG=1")
    }

    @Test(arguments: [
        (["WATCHDOG_USEC": "3000000"], Duration.milliseconds(1500)),
        (["WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"], .milliseconds(1500)),
        (["WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"], nil),
        (["WATCHDOG_USEC": "soon"], nil), (["WATCHDOG_USEC": "0"], nil), ([:], nil),
    ])
    func theWatchdogIsFedTwiceInItsTime(environment: [String: String], interval: Duration?) {
        #expect(
            ServiceNotification(environment: environment, processIdentifier: 7).watchdogInterval == interval)
    }
}
