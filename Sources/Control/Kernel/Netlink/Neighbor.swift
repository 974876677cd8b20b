public import Addresses

/// An entry of one of the two tables that lead from an address to the next one (rtnetlink(7), `RTM_NEWNEIGH`).
public struct Neighbor: Sendable, Hashable {
    /// Which of the tables.
    public enum Table: Sendable, Hashable {
        /// Which hardware address an IP address on the link has: what ARP and neighbour discovery find out.
        case neighbors
        /// Behind which underlay address a hardware address is: a VXLAN device's forwarding database.
        case forwarding
    }

    /// Which table it is of.
    public var table: Table
    /// The interface.
    public var interfaceIndex: Int32
    /// In the neighbour table the address that is looked up; in the forwarding table where packets are sent.
    public var address: IPAddress
    /// In the neighbour table what is found; in the forwarding table what is looked up.
    public var hardwareAddress: HardwareAddress
    /// Whether somebody set it for good (`NUD_PERMANENT`); what the kernel finds out itself ends by itself.
    public var isPermanent: Bool

    /// Makes an entry.
    public init(
        _ table: Table, interfaceIndex: Int32, address: IPAddress, hardwareAddress: HardwareAddress,
        isPermanent: Bool = true
    ) {
        self.table = table
        self.interfaceIndex = interfaceIndex
        self.address = address
        self.hardwareAddress = hardwareAddress
        self.isPermanent = isPermanent
    }
}

extension Neighbor: CustomStringConvertible {
    /// As ip-neighbour(8) and bridge(8) have it, without the interface: `10.66.3.0 lladdr 7a:…`, `7a:… dst 198.18.9.3`.
    public var description: String {
        switch table {
        case .neighbors: "\(address) lladdr \(hardwareAddress)"
        case .forwarding: "\(hardwareAddress) dst \(address)"
        }
    }
}

/// `NDA_*` of linux/neighbour.h.
enum NeighborAttribute {
    static let address = 1
    static let hardwareAddress = 2
    static let interfaceIndex = 8
}

extension Neighbor {
    /// `NUD_PERMANENT`.
    fileprivate static let permanentState: UInt16 = 0x80
    /// `NUD_NOARP | NUD_PERMANENT`, as bridge(8) writes them.
    fileprivate static let forwardingState: UInt16 = 0xC0
    /// `NTF_SELF`: the device's own table, and not that of a bridge that it is a port of.
    fileprivate static let ownTableFlag: UInt8 = 0x02

    /// Decodes an `RTM_NEWNEIGH` or `RTM_DELNEIGH`; nil for an entry without both addresses.
    init?(_ message: Message) {
        let attributes = message.attributes(after: MessageLayout.neighborSize)
        guard let family = message.payload.number(at: 0, as: UInt8.self),
            let interfaceIndex = message.payload.number(at: 4, as: Int32.self),
            let state = message.payload.number(at: 8, as: UInt16.self),
            let bytes = attributes[NeighborAttribute.address],
            let hardwareAddress = attributes[NeighborAttribute.hardwareAddress].flatMap({
                HardwareAddress(wireBytes: $0)
            }),
            let address = IPAddress(
                wireBytes: bytes,
                family: family == Family.bridge ? (bytes.count == 4 ? Family.v4 : Family.v6) : family)
        else { return nil }
        self.init(
            family == Family.bridge ? .forwarding : .neighbors, interfaceIndex: interfaceIndex,
            address: address, hardwareAddress: hardwareAddress,
            isPermanent: state & Neighbor.permanentState != 0)
    }

    fileprivate var family: UInt8 { table == .forwarding ? Family.bridge : address.family }
}

extension Request {
    /// Lists one interface's entries. A kernel before 4.20 answers with those of all.
    static func neighbors(_ table: Neighbor.Table, family: UInt8, ofInterface index: Int32) -> Request {
        Request("list the neighbours of interface \(index)", .getNeighbor, .dump) {
            $0.appendNeighbor(
                family: table == .forwarding ? Family.bridge : family,
                // The forwarding database takes the interface in the header, the neighbour table in an attribute.
                interfaceIndex: table == .forwarding ? index : 0)
            if table == .neighbors {
                $0.attribute(NeighborAttribute.interfaceIndex, UInt32(bitPattern: index))
            }
        }
    }

    static func replaceNeighbor(_ neighbor: Neighbor) -> Request {
        Request(
            "set neighbour \(neighbor) of interface \(neighbor.interfaceIndex)", .newNeighbor,
            [.acknowledge, .create, .replace]
        ) {
            $0.append(
                neighbor,
                state: neighbor.table == .forwarding ? Neighbor.forwardingState : Neighbor.permanentState)
        }
    }

    static func deleteNeighbor(_ neighbor: Neighbor) -> Request {
        Request(
            "delete neighbour \(neighbor) of interface \(neighbor.interfaceIndex)", .deleteNeighbor,
            .acknowledge
        ) { $0.append(neighbor, state: 0) }
    }
}

extension MessageWriter {
    /// Appends a `struct ndmsg`.
    fileprivate mutating func appendNeighbor(
        family: UInt8, interfaceIndex: Int32, state: UInt16 = 0, flags: UInt8 = 0, type: UInt8 = 0
    ) {
        append(family)
        append(UInt8(0))
        append(UInt16(0))
        append(interfaceIndex)
        append(state)
        append(flags)
        append(type)
    }

    /// Appends a `struct ndmsg` and the attributes that name the entry.
    fileprivate mutating func append(_ neighbor: Neighbor, state: UInt16) {
        let isForwarding = neighbor.table == .forwarding
        appendNeighbor(
            family: neighbor.family, interfaceIndex: neighbor.interfaceIndex, state: state,
            flags: isForwarding ? Neighbor.ownTableFlag : 0)
        if !isForwarding { attribute(NeighborAttribute.address, neighbor.address.wireBytes) }
        attribute(NeighborAttribute.hardwareAddress, neighbor.hardwareAddress.wireBytes)
        if isForwarding { attribute(NeighborAttribute.address, neighbor.address.wireBytes) }
    }
}
