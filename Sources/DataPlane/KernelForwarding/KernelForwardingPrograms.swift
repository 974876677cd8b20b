import Addresses
import CKernelForwarding
import Glibc
import KernelPrograms

/// The two programs and the maps by which they meet this process, as descriptors: one value, which a process can give to
/// the next one.
public struct KernelForwardingPrograms: Sendable {
    /// From the TUN device to the underlay: for what leaves by the TUN device.
    public let outbound: KernelProgram
    /// From the underlay to the TUN device: for what comes in by the underlay's interface.
    public let inbound: KernelProgram
    /// The maps, by the numbers of `kernel_map`.
    let maps: [KernelMap]

    /// What `bpftool` and `tc` call the programs.
    public static let names = (outbound: "twill_outbound", inbound: "twill_inbound")

    /// Makes the maps and loads the programs, which are attached to nothing yet, and lets each of them carry a packet of
    /// this process: what a kernel has is tried, not inferred from its version.
    ///
    /// - Parameters:
    ///   - memory: by which they and the workers tell each other what is through.
    ///   - underlay: the family of the addresses at which nodes reach each other.
    /// - Throws: `KernelProgramError` where the kernel refuses one, or does otherwise than it should.
    static func load(
        _ memory: KernelPathMemory, over underlay: AddressFamily
    ) throws(KernelProgramError) -> KernelForwardingPrograms {
        let maps = try makeMaps(memory)
        let code = instructions(over: underlay)
        do throws(KernelProgramError) {
            let outbound = try KernelProgram.load(
                code.outbound, mark: UInt32(KERNEL_MAP_MARK), maps: maps, name: names.outbound)
            do throws(KernelProgramError) {
                let inbound = try KernelProgram.load(
                    code.inbound, mark: UInt32(KERNEL_MAP_MARK), maps: maps, name: names.inbound)
                let programs = KernelForwardingPrograms(outbound: outbound, inbound: inbound, maps: maps)
                do throws(KernelProgramError) {
                    try KernelForwardingTrial.run(programs, over: underlay)
                    return programs
                } catch {
                    inbound.close()
                    throw error
                }
            } catch {
                outbound.close()
                throw error
            }
        } catch {
            for map in maps { map.close() }
            throw error
        }
    }

    private static func instructions(
        over underlay: AddressFamily
    ) -> (outbound: UnsafeBufferPointer<UInt64>, inbound: UnsafeBufferPointer<UInt64>) {
        func code(_ start: UnsafePointer<UInt64>?, _ count: UInt32) -> UnsafeBufferPointer<UInt64> {
            UnsafeBufferPointer(start: start, count: Int(count))
        }
        return switch underlay {
        case .ipv4:
            (
                code(kernel_forwarding_outbound_ipv4, kernel_forwarding_outbound_ipv4_count),
                code(kernel_forwarding_inbound_ipv4, kernel_forwarding_inbound_ipv4_count)
            )
        case .ipv6:
            (
                code(kernel_forwarding_outbound_ipv6, kernel_forwarding_outbound_ipv6_count),
                code(kernel_forwarding_inbound_ipv6, kernel_forwarding_inbound_ipv6_count)
            )
        }
    }

    /// The table of a family: an array of one map.
    private static func makeTable(
        of family: AddressFamily, name: String
    ) throws(KernelProgramError) -> KernelMap {
        let number = MemoryLayout<UInt32>.size
        let template = try KernelTable.empty(of: family, entryLimit: 1)
        defer { template.close() }
        return try .make(
            .arrayOfMaps(inner: template), keyBytes: number, valueBytes: number, entryLimit: 1, name: name)
    }

    private static func makeMaps(_ memory: KernelPathMemory) throws(KernelProgramError) -> [KernelMap] {
        let number = MemoryLayout<UInt32>.size
        let time = MemoryLayout<UInt64>.size
        var maps: [KernelMap] = []
        do throws(KernelProgramError) {
            // In the order of `kernel_map`.
            maps.append(
                try .make(
                    .array, keyBytes: number, valueBytes: MemoryLayout<kernel_settings>.stride,
                    entryLimit: 1, name: "twill_settings"))
            maps.append(try makeTable(of: .ipv4, name: "twill_table"))
            maps.append(try makeTable(of: .ipv6, name: "twill_table6"))
            maps.append(
                try .make(
                    .hash, keyBytes: MemoryLayout<kernel_endpoint>.stride, valueBytes: time,
                    entryLimit: Int(KERNEL_ABLE_LIMIT), name: "twill_able"))
            maps.append(
                try .make(
                    .array, keyBytes: number, valueBytes: MemoryLayout<kernel_flow>.stride,
                    entryLimit: Int(KERNEL_FLOWS), name: "twill_flows"))
            maps.append(
                try .make(
                    .arrayOfEachCPU, keyBytes: number,
                    valueBytes: MemoryLayout<kernel_peer_counts>.stride,
                    entryLimit: Int(KERNEL_PEER_SLOTS), name: "twill_peers"))
            maps.append(
                try .make(
                    .arrayOfEachCPU, keyBytes: number, valueBytes: time,
                    entryLimit: Int(KERNEL_EVENTS.rawValue), name: "twill_events"))
            maps.append(
                try .make(
                    .arrayOfEachCPU, keyBytes: number, valueBytes: MemoryLayout<kernel_crowd>.stride,
                    entryLimit: 1, name: "twill_crowds"))
            maps.append(contentsOf: try memory.sharedMaps())
            return maps
        } catch {
            for map in maps { map.close() }
            throw error
        }
    }

    subscript(_ map: kernel_map) -> KernelMap { maps[Int(map.rawValue)] }

    /// Closes all descriptors. Programs that stand in an interface's way go on until they are taken away there.
    func close() {
        outbound.close()
        inbound.close()
        for map in maps { map.close() }
    }
}
