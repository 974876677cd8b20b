#if DEBUG || FUZZING
    import Addresses
    import Glibc

    @testable import Netlink

    /// A datagram from the kernel: notifications and replies, with the numbers of one that was asked for.
    final class NetlinkReplyTarget: FuzzTarget {
        let maximumBytes = 4096
        /// Lengths and types of attributes.
        let words: [[UInt8]] = [
            [4, 0], [3, 0], [8, 0, 1, 0], [8, 0, 5, 0], [0xFF, 0xFF, 9, 0], [0, 0x80], [0, 0x40],
            [7, 0, 0, 0], [2], [10],
        ]

        /// What the kernel answers: requests that make and list links, addresses and routes have the form of its answers.
        var seeds: [[UInt8]] {
            let route = Route(
                to: .v4(IPv4Prefix(IPv4Address(bits: 0x0A42_0000), length: 16)),
                gateway: .v4(IPv4Address(bits: 0x0A01_0201)),
                interfaceIndex: 3, preferredSource: .v4(IPv4Address(bits: 0x0A42_1C00)), metric: 5, mtu: 1372)
            let wide = Route(
                to: .v6(IPv6Prefix(IPv6Address(high: 0xFD00 << 48, low: 0), length: 64)), interfaceIndex: 3,
                table: 1000)
            let address = InterfaceAddress(
                interfaceIndex: 3, address: .v4(IPv4Address(bits: 0x0A42_1C00)), prefixLength: 32)
            let requests: [Request] = [
                .replaceRoute(route), .replaceRoute(wide), .deleteRoute(route), .addAddress(address),
                .deleteAddress(address),
                .link(named: "flannel0"),
                .setLink(index: 3, LinkChange(isUp: true, mtu: 1472, transmitQueueLength: 500)),
            ]
            let single = requests.map { $0.message.finish(sequence: 7) }
            func message(_ type: UInt8, flags: UInt8, _ payload: [UInt8]) -> [UInt8] {
                [UInt8(16 + payload.count), 0, 0, 0, type, 0, flags, 1, 7, 0, 0, 0, 0, 0, 0, 0] + payload
            }
            let refusal = message(
                2, flags: 2,
                [0xEE, 0xFF, 0xFF, 0xFF] + single[5].prefix(16) + [12, 0, 1, 0] + Array("no such".utf8) + [0])
            return single + [
                single.flatMap { $0 }, refusal, message(3, flags: 2, [0, 0, 0, 0]),
                message(2, flags: 1, [0, 0, 0, 0]),
            ]
        }

        func run(_ bytes: [UInt8]) throws(FuzzFailure) {
            var reply = Reply(to: "fuzz", sequence: 7)
            do {
                _ = try reply.take(bytes)
                for message in reply.messages { try hold(message.sequence == 7, "another request's message") }
            } catch let error as NetlinkError {
                try hold(error.code != 0, "an error without a number")
                _ = error.description
            } catch {
                throw FuzzFailure("\(error)")
            }
            for message in Message.all(in: bytes) ?? [] {
                if let link = Link(message) {
                    try hold(link.mtu >= 0 && link.transmitQueueLength >= 0, "a link of negative size")
                }
                _ = NetworkChange(message)
                if let address = InterfaceAddress(message) {
                    try hold(
                        (0...address.address.bitWidth).contains(address.prefixLength),
                        "\(address.prefixLength) bits")
                }
                for route in [Route(message), Route(answer: message)].compactMap({ $0 }) {
                    try hold(
                        (0...route.destination.address.bitWidth).contains(route.destination.length),
                        "\(route.destination.length) bits")
                    try returns(route)
                }
            }
        }

        /// A route that was read, and is set, reads the same again; but for several next hops, which twill sets nowhere.
        private func returns(_ read: Route) throws(FuzzFailure) {
            var route = read
            route.nextHops = []
            route.nextHopGroup = nil
            let sent = Request.replaceRoute(route).message.finish(sequence: 9)
            guard let messages = Message.all(in: sent), messages.count == 1,
                let again = Route(answer: messages[0])
            else {
                throw FuzzFailure("the request for \(route) does not parse")
            }
            try hold(again == route, "\(route) turned to \(again)")
        }
    }

    /// Requests made of foreign values: names from flags, numbers from the kernel.
    final class NetlinkRequestTarget: FuzzTarget {
        let maximumBytes = 70_000
        let words: [[UInt8]] = [Array("flannel0".utf8)]
        let seeds: [[UInt8]] = [
            Array("eth0".utf8), [1, 0, 0, 0, 0xC0, 5, 0, 0, 0xF4, 1, 0, 0],
            [UInt8](repeating: 0x61, count: 300),
            [UInt8](repeating: 0x61, count: 65_531), [UInt8](repeating: 0x61, count: 66_000),
        ]

        func run(_ bytes: [UInt8]) throws(FuzzFailure) {
            func number(_ offset: Int) -> Int {
                bytes.dropFirst(offset).prefix(8).reversed().reduce(0) { $0 << 8 | Int($1) }
            }
            let change = LinkChange(
                isUp: bytes.count & 1 == 0, mtu: number(0), transmitQueueLength: number(4))
            let requests: [Request] = [
                .link(named: String(decoding: bytes, as: UTF8.self)),
                .setLink(index: Int32(truncatingIfNeeded: number(2)), change),
                .deleteLink(index: Int32(truncatingIfNeeded: number(1))),
            ]
            for request in requests {
                let messages = Message.all(in: request.message.finish(sequence: 7))
                try hold(
                    messages?.count == 1 && messages?.first?.sequence == 7,
                    "\(request.operation) does not parse")
            }
        }
    }
#endif
