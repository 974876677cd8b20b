// How it works. A program gets into the way of an interface's packets as a filter of traffic control: the
// interface is given a queueing discipline that queues nothing (`clsact`), and that has a list of filters for each
// direction, by priority. Such a filter stays when its process ends. The discipline is left in place: others may have
// filters there, and without it they lose them.

import CLinux
import Glibc

/// A program in the list of an interface's filters (tc-bpf(8), `RTM_NEWTFILTER`).
public struct TrafficFilter: Sendable, Hashable {
    /// Which list of an interface it is in.
    public enum Hook: UInt32, Sendable, CaseIterable {
        /// What comes in: `TC_H_CLSACT` and `TC_H_MIN_INGRESS` of linux/pkt_sched.h.
        case ingress = 0xFFFF_FFF2
        /// What leaves: `TC_H_MIN_EGRESS`.
        case egress = 0xFFFF_FFF3
    }

    /// The interface's number.
    public var interfaceIndex: Int32
    /// Which list.
    public var hook: Hook
    /// Its place in the list: lower ones run first.
    public var priority: UInt16
    /// Its number among those of one priority.
    public var handle: UInt32
    /// The name that it was given; nil where it is no program or has none.
    public var name: String?
    /// The kernel's number of the program; nil where it is none, and of a filter that is still to be made.
    public var programIdentifier: UInt32?

    /// Makes a filter.
    public init(
        interfaceIndex: Int32, hook: Hook, priority: UInt16, handle: UInt32, name: String? = nil,
        programIdentifier: UInt32? = nil
    ) {
        self.interfaceIndex = interfaceIndex
        self.hook = hook
        self.priority = priority
        self.handle = handle
        self.name = name
        self.programIdentifier = programIdentifier
    }

    /// Decodes an `RTM_NEWTFILTER`; nil for what describes a list rather than a filter in it.
    init?(_ message: Message) {
        guard let index = message.payload.number(at: 4, as: Int32.self),
            let handle = message.payload.number(at: 8, as: UInt32.self), handle != 0,
            let hook = message.payload.number(at: 12, as: UInt32.self).flatMap(Hook.init(rawValue:)),
            let information = message.payload.number(at: 16, as: UInt32.self)
        else { return nil }
        let attributes = message.attributes(after: MessageLayout.trafficSize)
        guard let kind = attributes.text(TrafficAttribute.kind) else { return nil }
        let program = kind == "bpf" ? attributes.nested(TrafficAttribute.options) : nil
        self.init(
            interfaceIndex: index, hook: hook, priority: UInt16(truncatingIfNeeded: information >> 16),
            handle: handle, name: program?.text(TrafficAttribute.Program.name),
            programIdentifier: program?.number(TrafficAttribute.Program.identifier))
    }
}

extension RouteSocket {
    /// The filters in one of an interface's lists, in the order in which they run; none where it has no list.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func trafficFilters(
        ofInterface index: Int32, _ hook: TrafficFilter.Hook
    ) throws(NetlinkError) -> [TrafficFilter] {
        do {
            return try list(.trafficFilters(interfaceIndex: index, hook)) {
                $0.type == .newFilter ? TrafficFilter($0) : nil
            }
        } catch {
            // No such list, or a kernel without traffic control.
            if [EINVAL, ENOENT, ENODEV, EOPNOTSUPP].contains(error.code) { return [] }
            throw error
        }
    }

    /// Gives an interface lists of filters (`clsact`), where it has none. What is sent there in that moment is lost.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func addTrafficLists(toInterface index: Int32) throws(NetlinkError) {
        do {
            _ = try list(.addTrafficLists(interfaceIndex: index)) { _ -> Never? in nil }
        } catch {
            // It has them.
            guard error.code == EEXIST else { throw error }
        }
    }

    /// Puts a program into the list, in the place of the filter with the same priority and handle, between two packets.
    ///
    /// - Parameters:
    ///   - filter: with its name.
    ///   - program: the program's descriptor.
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func replaceTrafficFilter(_ filter: TrafficFilter, program: Int32) throws(NetlinkError) {
        try addTrafficLists(toInterface: filter.interfaceIndex)
        _ = try list(.replaceTrafficFilter(filter, program: program)) { _ -> Never? in nil }
    }

    /// Takes a filter away; one that is gone already is no error.
    ///
    /// - Throws: `NetlinkError` with the kernel's error number, and its own words where it has any.
    public func deleteTrafficFilter(_ filter: TrafficFilter) throws(NetlinkError) {
        do {
            _ = try list(.deleteTrafficFilter(filter)) { _ -> Never? in nil }
        } catch {
            guard [ENOENT, EINVAL, ENODEV].contains(error.code) else { throw error }
        }
    }
}

extension Request {
    /// `TC_H_CLSACT`: the parent of the discipline, which is also where its number begins.
    private static let clsact: UInt32 = 0xFFFF_FFF1
    /// `TC_H_MAKE(TC_H_CLSACT, 0)`.
    private static let clsactHandle: UInt32 = 0xFFFF_0000
    /// ETH_P_ALL of linux/if_ether.h, in network byte order: packets of all protocols.
    private static let allProtocols = UInt32(UInt16(ETH_P_ALL).bigEndian)
    /// TCA_BPF_FLAG_ACT_DIRECT of linux/pkt_cls.h: what the program returns is what becomes of the packet.
    private static let decidesItself: UInt32 = 1

    static func addTrafficLists(interfaceIndex: Int32) -> Request {
        Request(
            "add clsact to interface \(interfaceIndex)", .newDiscipline,
            [.acknowledge, .create, .exclusive]
        ) {
            $0.appendTraffic(
                interfaceIndex: interfaceIndex, handle: clsactHandle, parent: clsact, information: 0)
            $0.attribute(TrafficAttribute.kind, "clsact")
        }
    }

    static func trafficFilters(interfaceIndex: Int32, _ hook: TrafficFilter.Hook) -> Request {
        Request("list filters of interface \(interfaceIndex)", .getFilter, .dump) {
            $0.appendTraffic(
                interfaceIndex: interfaceIndex, handle: 0, parent: hook.rawValue, information: 0)
        }
    }

    static func replaceTrafficFilter(_ filter: TrafficFilter, program: Int32) -> Request {
        Request(
            "attach \(filter.name ?? "a program") to interface \(filter.interfaceIndex)", .newFilter,
            [.acknowledge, .create]
        ) {
            $0.appendTraffic(filter)
            $0.attribute(TrafficAttribute.kind, "bpf")
            $0.nested(TrafficAttribute.options) {
                $0.attribute(TrafficAttribute.Program.descriptor, UInt32(bitPattern: program))
                $0.attribute(TrafficAttribute.Program.name, filter.name ?? "")
                $0.attribute(TrafficAttribute.Program.flags, decidesItself)
            }
        }
    }

    static func deleteTrafficFilter(_ filter: TrafficFilter) -> Request {
        Request(
            "take \(filter.name ?? "a program") away from interface \(filter.interfaceIndex)", .deleteFilter,
            .acknowledge
        ) { $0.appendTraffic(filter) }
    }

    fileprivate static func information(of filter: TrafficFilter) -> UInt32 {
        UInt32(filter.priority) << 16 | allProtocols
    }
}

extension MessageWriter {
    /// Appends a `struct tcmsg`.
    fileprivate mutating func appendTraffic(
        interfaceIndex: Int32, handle: UInt32, parent: UInt32, information: UInt32
    ) {
        append(Family.unspecified)
        append(UInt8(0))
        append(UInt16(0))
        append(interfaceIndex)
        append(handle)
        append(parent)
        append(information)
    }

    fileprivate mutating func appendTraffic(_ filter: TrafficFilter) {
        appendTraffic(
            interfaceIndex: filter.interfaceIndex, handle: filter.handle, parent: filter.hook.rawValue,
            information: Request.information(of: filter))
    }
}
