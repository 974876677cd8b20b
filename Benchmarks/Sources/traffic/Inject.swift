import Addresses
import ArgumentParser
import CMessages
import EndpointArgument
import Glibc

/// Plays a peer that sends what no peer should: datagrams that are no whole IP packet, lie about where they come
/// from, are too long; among them good ones, which must arrive.
struct Inject: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Sends malformed datagrams to a node, and good ones among them.",
        discussion: """
            Prints how many datagrams went out for each of twilld's counters that they must show in. The good ones are \
            for `traffic check-receive` at --inner-to; packets_corrupt are delivered as they are and dropped there, \
            for their UDP checksum is wrong.
            """)

    @Option(help: "Underlay address and port of the node.", transform: parseEndpoint)
    var to: Endpoint

    @Option(help: "Source of the good inner packets, in this node's subnet.")
    var innerFrom: String

    @Option(help: "Address and port of `traffic check-receive` behind the node.", transform: parseEndpoint)
    var innerTo: Endpoint

    @Option(help: "Number of the good packets' flow; the receiver must know no two senders by the same.")
    var flow: UInt16

    @Option(help: "Seed of the content, as the receiver has it, and of all that is drawn by chance.")
    var seed: UInt32

    @Option(help: "Seconds to send.")
    var seconds: Double = 2

    @Option(help: "Datagrams a second.")
    var rate: Double = 10_000

    @Option(help: "Longest inner packet that the node lets in, bytes.")
    var mtu = 1472

    @Flag(help: "The node knows no peer at this address: it must let nothing in.")
    var unknown = false

    func validate() throws {
        guard IPv4Address(innerFrom) != nil else {
            throw ValidationError("--inner-from \(innerFrom): no IPv4 address")
        }
        guard (256...9000).contains(mtu) else { throw ValidationError("--mtu \(mtu): 256 to 9000") }
    }

    func run() throws {
        StopSignal.install()
        var injector = try Injector(self)
        injector.run()
        print(injector.json)
    }
}

/// What a datagram is to the node: good, or which of its counters it belongs to.
private enum Flaw: String, CaseIterable {
    case none = "packets_good"
    /// The UDP checksum is wrong: nothing that a node may judge, as long as it does not vouch for it.
    case corrupt = "packets_corrupt"
    case version = "drop_inbound_version"
    case headerLength = "drop_inbound_header_length"
    case totalLength = "drop_inbound_total_length"
    case headerChecksum = "drop_inbound_header_checksum"
    case source = "drop_inbound_source"
    case destination = "drop_inbound_destination"
    case timeToLive = "drop_inbound_time_to_live"
    case tooShort = "drop_inbound_too_short"
    case tooLarge = "drop_inbound_too_large"

    /// Those that leave a packet's size as it is, and so go in one send with good ones.
    static let ofAnySize: [Flaw] = [
        .version, .headerLength, .totalLength, .headerChecksum, .source, .destination, .timeToLive,
    ]
}

struct Injector: ~Copyable {
    private static let headerBytes = 28
    private static let runLimit = 16
    private static let largest = 65_507

    private let content: CheckedContent
    private let options: Inject
    private let socket: Socket
    private let source: IPv4Address
    private var message = SegmentedMessage()
    private let packets: UnsafeMutableRawPointer
    private var generator: SeededGenerator
    private var identification: UInt16 = 0
    private var sequence: UInt64 = 0
    private var sent: [Flaw: UInt64] = [:]
    private var datagrams: UInt64 = 0
    private var refused: UInt64 = 0
    /// ICMP errors that the node answered with: a peer's they would be.
    private var answers: UInt64 = 0

    init(_ options: Inject) throws {
        let socket = try Socket(.datagram)
        try socket.connect(SocketAddress(options.to))
        socket.set(Int32(IPPROTO_IP), IP_MTU_DISCOVER, Int32(IP_PMTUDISC_DONT))
        socket.set(SOL_SOCKET, SO_SNDBUFFORCE, 4 << 20)
        self.socket = socket
        self.options = options
        content = CheckedContent(seed: options.seed)
        source = IPv4Address(options.innerFrom)!
        packets = .allocate(byteCount: Self.largest + Self.runLimit * options.mtu, alignment: 64)
        generator = SeededGenerator(seed: UInt64(options.seed) << 16 | UInt64(options.flow))
    }

    deinit { packets.deallocate() }

    mutating func run() {
        let start = nanosecondsNow()
        let end = start + UInt64(options.seconds * 1e9)
        var now = start
        while now < end, !StopSignal.came {
            takeAnswers()
            let due = UInt64(Double(now - start) * 1e-9 * options.rate)
            if datagrams + refused < due {
                if generator.oneIn(4) { sendAlone() } else { sendRun() }
            } else {
                var pause = timespec(tv_sec: 0, tv_nsec: 500_000)
                nanosleep(&pause, nil)
            }
            now = nanosecondsNow()
        }
        // The last answers are on their way.
        usleep(200_000)
        takeAnswers()
    }

    private mutating func takeAnswers() {
        while recv(socket.descriptor, packets, 2048, Int32(MSG_DONTWAIT)) > 0 { answers += 1 }
    }

    // MARK: What is sent

    /// Equal-sized packets in one segmented send, which a receiver with `UDP_GRO` gets as one buffer: good ones that
    /// continue each other, with bad ones between them.
    private mutating func sendRun() {
        let count = Int.random(in: 1...Self.runLimit, using: &generator)
        let size = Int.random(in: Self.headerBytes + CheckedHeader.bytes + 1...options.mtu, using: &generator)
        var flaws: [Flaw] = []
        let sequenceBefore = sequence
        message.removeAll()
        for place in 0..<count {
            let flaw: Flaw =
                generator.oneIn(2)
                ? .none
                : generator.oneIn(3) ? .corrupt : Flaw.ofAnySize.randomElement(using: &generator)!
            flaws.append(flaw)
            let packet = packets + place * size
            writePacket(packet, size: size, flaw: flaw)
            message.append(packet, count: size)
        }
        if !send(flaws, segmentBytes: count > 1 ? size : 0) { sequence = sequenceBefore }
    }

    /// One datagram whose length is what is wrong with it.
    private mutating func sendAlone() {
        let flaw: Flaw
        let size: Int
        message.removeAll()
        switch Int.random(in: 0..<8, using: &generator) {
        case 0, 1:
            // Nothing at all, or the beginning of a packet.
            (flaw, size) = (.tooShort, Int.random(in: 0..<20, using: &generator))
            writePacket(packets, size: 64, flaw: .none, isCounted: false)
        case 2:
            (flaw, size) = (.tooShort, Int.random(in: 20..<40, using: &generator))
            writeIPv6(packets, size: 64)
        case 3:
            (flaw, size) = (.totalLength, Int.random(in: 40...400, using: &generator))
            writeIPv6(packets, size: size + Int.random(in: 1...9, using: &generator))
        case 4:
            (flaw, size) = (.destination, Int.random(in: 40...400, using: &generator))
            writeIPv6(packets, size: size)
        case 5:
            (flaw, size) = (.version, Int.random(in: 20...options.mtu, using: &generator))
            for offset in 0..<size {
                packets.storeBytes(
                    of: UInt8.random(in: 0...255, using: &generator), toByteOffset: offset, as: UInt8.self)
            }
            packets.storeBytes(of: UInt8(generator.oneIn(2) ? 0x0F : 0xF5), as: UInt8.self)
        case 6:
            size =
                generator.oneIn(16) ? Self.largest : options.mtu + Int.random(in: 1...4000, using: &generator)
            flaw = .tooLarge
            writePacket(packets, size: size, flaw: .none, isCounted: false)
        default:
            // A packet, and something behind it.
            (flaw, size) = (.totalLength, 100)
            writePacket(
                packets, size: 100 - Int.random(in: 1...20, using: &generator), flaw: .none, isCounted: false)
        }
        message.append(packets, count: size)
        _ = send([flaw], segmentBytes: 0)
    }

    private mutating func send(_ flaws: [Flaw], segmentBytes: Int) -> Bool {
        guard message.send(on: socket.descriptor, segmentBytes: segmentBytes) == 0 else {
            refused += UInt64(flaws.count)
            return false
        }
        datagrams += UInt64(flaws.count)
        for flaw in flaws { sent[flaw, default: 0] += 1 }
        return true
    }

    // MARK: Packets

    /// A UDP packet of the good flow with one flaw.
    ///
    /// - Parameter isCounted: whether the flow's next packet is another one; else this one is not meant to arrive.
    private mutating func writePacket(
        _ packet: UnsafeMutableRawPointer, size: Int, flaw: Flaw, isCounted: Bool = true
    ) {
        func store16(_ value: UInt16, at offset: Int) {
            packet.storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt16.self)
        }
        let payload = size - Self.headerBytes
        packet.initializeMemory(as: UInt8.self, repeating: 0, count: Self.headerBytes)
        packet.storeBytes(of: 0x45, as: UInt8.self)
        store16(UInt16(size), at: 2)
        store16(identification, at: 4)
        packet.storeBytes(of: 64, toByteOffset: 8, as: UInt8.self)
        packet.storeBytes(of: UInt8(IPPROTO_UDP), toByteOffset: 9, as: UInt8.self)
        packet.storeBytes(of: source.networkBytes, toByteOffset: 12, as: UInt32.self)
        packet.storeBytes(of: options.innerTo.addressIPv4.networkBytes, toByteOffset: 16, as: UInt32.self)
        store16(40_000, at: 20)
        store16(options.innerTo.port, at: 22)
        store16(UInt16(size - 20), at: 24)
        if payload >= CheckedHeader.bytes {
            CheckedHeader(seed: options.seed, flow: options.flow, length: payload, sequence: sequence)
                .store(to: packet + Self.headerBytes)
            (packet + Self.headerBytes + CheckedHeader.bytes).copyMemory(
                from: content.run(flow: options.flow, sequence: sequence),
                byteCount: payload - CheckedHeader.bytes)
        } else {
            (packet + Self.headerBytes).initializeMemory(as: UInt8.self, repeating: 0, count: payload)
        }
        let checksum = transportChecksum(packet, size: size)
        store16(checksum == 0 ? 0xFFFF : checksum, at: 26)
        if flaw == .none || flaw == .corrupt {
            identification &+= 1
            if flaw == .none, isCounted { sequence += 1 }
        }

        switch flaw {
        case .corrupt:
            let place = Int.random(in: Self.headerBytes..<size, using: &generator)
            let byte = packet.load(fromByteOffset: place, as: UInt8.self)
            packet.storeBytes(
                of: byte ^ 1 << UInt8.random(in: 0..<8, using: &generator), toByteOffset: place,
                as: UInt8.self)
        case .version: packet.storeBytes(of: 0x55, as: UInt8.self)
        case .headerLength:
            packet.storeBytes(of: [0x40, 0x44].randomElement(using: &generator)!, as: UInt8.self)
        case .totalLength:
            store16(
                [0, 20, UInt16(size - 1), UInt16(size + 1), 0xFFFF].randomElement(using: &generator)!, at: 2)
        case .source:
            // One of a node elsewhere, somebody on the underlay, the node itself.
            let address = ["8.8.8.8", "172.20.32.77", "\(options.innerTo.address)"]
                .randomElement(using: &generator)!
            packet.storeBytes(of: IPv4Address(address)!.networkBytes, toByteOffset: 12, as: UInt32.self)
        case .destination:
            packet.storeBytes(of: IPv4Address("8.8.4.4")!.networkBytes, toByteOffset: 16, as: UInt32.self)
        case .timeToLive:
            packet.storeBytes(of: UInt8.random(in: 0...1, using: &generator), toByteOffset: 8, as: UInt8.self)
        case .none, .headerChecksum, .tooShort, .tooLarge: break
        }
        let headerChecksum = ~folded(sum(packet, count: 20))
        store16(flaw == .headerChecksum ? headerChecksum ^ 0x0100 : headerChecksum, at: 10)
    }

    private func writeIPv6(_ packet: UnsafeMutableRawPointer, size: Int) {
        packet.initializeMemory(as: UInt8.self, repeating: 0, count: size)
        packet.storeBytes(of: 0x60, as: UInt8.self)
        packet.storeBytes(of: UInt16(size - 40).bigEndian, toByteOffset: 4, as: UInt16.self)
        packet.storeBytes(of: UInt8(IPPROTO_UDP), toByteOffset: 6, as: UInt8.self)
        packet.storeBytes(of: 64, toByteOffset: 7, as: UInt8.self)
        packet.storeBytes(of: 0xFD, toByteOffset: 8, as: UInt8.self)
        packet.storeBytes(of: 0xFD, toByteOffset: 24, as: UInt8.self)
    }

    /// RFC 1071 over big-endian words, unfolded.
    private func sum(_ bytes: UnsafeMutableRawPointer, count: Int) -> UInt64 {
        var sum: UInt64 = 0
        for offset in stride(from: 0, to: count - 1, by: 2) {
            sum += UInt64(UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt16.self)))
        }
        if count % 2 == 1 { sum += UInt64(bytes.load(fromByteOffset: count - 1, as: UInt8.self)) << 8 }
        return sum
    }

    private func folded(_ sum: UInt64) -> UInt16 {
        var sum = sum
        while sum > 0xFFFF { sum = (sum & 0xFFFF) + sum >> 16 }
        return UInt16(sum)
    }

    /// RFC 768; the checksum field is zero.
    private func transportChecksum(_ packet: UnsafeMutableRawPointer, size: Int) -> UInt16 {
        let pseudoHeader = sum(packet + 12, count: 8) + UInt64(IPPROTO_UDP) + UInt64(size - 20)
        return ~folded(pseudoHeader + sum(packet + 20, count: size - 20))
    }

    // MARK: What came of it

    var json: String {
        var counts: [(String, UInt64)] = Flaw.allCases.map { ($0.rawValue, sent[$0, default: 0]) }
        if options.unknown {
            counts = [("drop_inbound_unknown_peer", datagrams)]
        }
        let expected = counts.map { "\"\($0.0)\":\($0.1)" }.joined(separator: ",")
        return """
            {"datagrams":\(datagrams),"refused":\(refused),"answers":\(answers),"flow":\(options.flow),\
            "expected":{\(expected)}}
            """
    }
}
