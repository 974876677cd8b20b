import Addresses
import CLinux
import Glibc
import Host
import Synchronization

/// Reads this machine's rules for the families that somebody has asked for, and only where they changed: the kernel
/// counts the changes of nftables' rules, iptables-nft's among them, and one netlink request tells the count. Only the
/// old kind of iptables has no such count.
///
/// A reading takes milliseconds, with 26,000 rules a good part of a second: after one that took long the next follows
/// after twenty times as long at the soonest, so that rules that change all the time cost a twentieth of a CPU at
/// most.
final class RuleSetReader: Sendable {
    private static let pauseFactor = 20
    /// What is called long, in milliseconds: a resync every five seconds then costs that twentieth as it is.
    private static let longReadingMilliseconds = 250

    /// Up to how many tables are listed one by one.
    private static let singleTableLimit = 16

    private struct State {
        var ruleSet: RuleSet?
        var generation: UInt32?
        var hadLegacyTables = false
        /// Whose rules are read: those that were ever asked for.
        var families: Set<AddressFamily> = []
        var nextReading: ContinuousClock.Instant?
    }

    private let state = Mutex(State())

    /// The rules as they are, those of `family` among them; with `mayBeOld`, or as they were within the pause.
    func current(_ family: AddressFamily, mayBeOld: Bool = false) throws -> RuleSet {
        let generation = RuleSetReader.generation()
        let families = state.withLock { $0.families.union([family]) }
        let legacyTables = families.flatMap { family in
            RuleSetReader.legacyTables(family).map { (family, $0) }
        }
        let known: RuleSet? = state.withLock { state in
            guard let known = state.ruleSet, state.families == families else { return nil }
            if mayBeOld, let next = state.nextReading, ContinuousClock.now < next { return known }
            let isSame = state.generation == generation && legacyTables.isEmpty && !state.hadLegacyTables
            return isSame ? known : nil
        }
        if let known { return known }
        let clock = ContinuousClock()
        let start = clock.now
        let ruleSet = try RuleSetReader.read(
            families, legacyTables: legacyTables, hasNftables: generation != nil)
        let end = clock.now
        state.withLock {
            $0 = State(
                ruleSet: ruleSet, generation: generation, hadLegacyTables: !legacyTables.isEmpty,
                families: families,
                nextReading: end - start > .milliseconds(RuleSetReader.longReadingMilliseconds)
                    ? end + (end - start) * RuleSetReader.pauseFactor : nil)
        }
        return ruleSet
    }

    /// The tables of the old iptables that are in use in this network namespace. Asking for another one would make
    /// it.
    static func legacyTables(withNat: Bool = false, _ family: AddressFamily) -> [String] {
        let name = family == .ipv4 ? "ip_tables_names" : "ip6_tables_names"
        guard let text = try? TextFile.read("/proc/thread-self/net/\(name)") else { return [] }
        return text.split(whereSeparator: \.isNewline).map(String.init).filter { withNat || $0 != "nat" }
    }

    private static func read(
        _ families: Set<AddressFamily>, legacyTables: [(AddressFamily, String)], hasNftables: Bool
    ) throws -> RuleSet {
        var ruleSet = RuleSet()
        if hasNftables { try addNftables(of: families, to: &ruleSet) }
        for (family, table) in legacyTables {
            let name = "\(Iptables.programName(family))-legacy"
            guard let program = ChildProcess("\(name)-save") else { continue }
            let text = try program.run(["-t", table], outputLimit: RuleSet.sizeLimit)
            ruleSet.add(iptables: text.output, program: name, family)
        }
        return ruleSet
    }

    private static func addNftables(of families: Set<AddressFamily>, to ruleSet: inout RuleSet) throws {
        let nft = ChildProcess("nft")
        let tables = try nft.map { try RuleSetReader.tables(of: families, $0) }
        var printed: Set<String> = []
        for family in families {
            guard let save = Iptables.nftSaveProgram(family) else { continue }
            for table in ["filter", "mangle", "raw", "security"] {
                let name = "\(RuleTable.familyName(family)) \(table)"
                guard tables?.contains(name) != false else { continue }
                let result = try save.run(["-t", table], outputLimit: RuleSet.sizeLimit)
                // A table that nft changed to what iptables cannot print is left to nft.
                guard result.status == 0, result.output.contains("\nCOMMIT") else { continue }
                ruleSet.add(iptables: result.output, program: Iptables.programName(family), family)
                printed.insert(name)
            }
        }
        let rest = (tables ?? []).filter { !printed.contains($0) }
        guard let nft, !rest.isEmpty else { return }
        // Each by a program of its own: nft 1.0 lists but the first of several tables. Of very many all at once.
        let isMany = rest.count > RuleSetReader.singleTableLimit
        for arguments in isMany ? ["ruleset"] : rest.map({ "table \($0)" }) {
            guard let listing = try list(arguments, nft) else { continue }
            ruleSet.add(
                nftables: listing.text, except: printed.union(["ip nat", "ip6 nat"]),
                lacksElements: listing.lacksElements)
        }
    }

    /// The names of the tables (`inet firewalld`) whose rules may drop packets of the families. iptables' nat is none of
    /// them, and has nearly all of kube-proxy's rules: it is not read.
    private static func tables(of families: Set<AddressFamily>, _ nft: ChildProcess) throws -> [String] {
        let own = families.map(RuleTable.familyName)
        let result = try nft.run(["list", "tables"])
        guard result.status == 0 else { throw ChildProcessError(nft, ["list", "tables"], result) }
        return result.output.split(whereSeparator: \.isNewline).compactMap { line in
            let words = line.split(separator: " ")
            guard words.count == 3, let family = words.dropFirst().first, let name = words.last,
                own.contains(String(family)) || ["inet", "netdev", "bridge"].contains(family)
            else { return nil }
            return own.contains(String(family)) && name == "nat" ? nil : "\(family) \(name)"
        }
    }

    /// What nft lists; nil where that has gone meanwhile.
    private static func list(_ what: String, _ nft: ChildProcess) throws -> (
        text: String, lacksElements: Bool
    )? {
        let arguments = ["list"] + what.split(separator: " ").map(String.init)
        var lacksElements = false
        var result: ChildProcess.Result
        do throws(ChildProcessError) {
            result = try nft.run(["--stateless"] + arguments, outputLimit: RuleSet.sizeLimit)
        } catch {
            guard error.kind == .outputTooLarge else { throw error }
            // Sets of a hundred thousand addresses: without their elements.
            lacksElements = true
            result = try nft.run(["--stateless", "--terse"] + arguments, outputLimit: RuleSet.sizeLimit)
        }
        if result.status != 0, result.errors.contains("No such file or directory") { return nil }
        guard result.status == 0 else { throw ChildProcessError(nft, arguments, result) }
        return (result.output, lacksElements)
    }

    /// How often nftables' rules were changed in the calling thread's network namespace; nil where the kernel has no
    /// nftables, or does not say (NFT_MSG_GETGEN, linux/netfilter/nf_tables.h).
    static func generation() -> UInt32? {
        let descriptor = socket(
            AF_NETLINK, Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue), NETLINK_NETFILTER)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var timeout = timeval(tv_sec: 1, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        // struct nlmsghdr: length, type, flags, sequence, port; struct nfgenmsg: family, version, resource.
        let messageType = UInt16(NFNL_SUBSYS_NFTABLES) << 8 | UInt16(NFT_MSG_GETGEN.rawValue)
        var request = [UInt8](repeating: 0, count: 20)
        request.withUnsafeMutableBytes {
            $0.storeBytes(of: 20, toByteOffset: 0, as: UInt32.self)
            $0.storeBytes(of: messageType, toByteOffset: 4, as: UInt16.self)
            $0.storeBytes(of: UInt16(NLM_F_REQUEST), toByteOffset: 6, as: UInt16.self)
        }
        guard send(descriptor, request, request.count, 0) == request.count else { return nil }
        var answer = [UInt8](repeating: 0, count: 4096)
        let count = recv(descriptor, &answer, answer.count, 0)
        return parse(generation: answer.prefix(max(0, count)))
    }

    /// The count in the kernel's answer; nil where it is an error, or none.
    static func parse(generation answer: ArraySlice<UInt8>) -> UInt32? {
        let answer = Array(answer)
        guard answer.count >= 20 else { return nil }
        return answer.withUnsafeBytes { bytes in
            let messageType = UInt16(NFNL_SUBSYS_NFTABLES) << 8 | UInt16(NFT_MSG_NEWGEN.rawValue)
            guard bytes.loadUnaligned(fromByteOffset: 4, as: UInt16.self) == messageType else { return nil }
            // Attributes: length, type, contents, at multiples of 4.
            var offset = 20
            while offset &+ 8 <= bytes.count {
                let length = Int(bytes.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
                let kind = bytes.loadUnaligned(fromByteOffset: offset &+ 2, as: UInt16.self)
                if kind == UInt16(NFTA_GEN_ID.rawValue), length >= 8 {
                    return UInt32(
                        bigEndian: bytes.loadUnaligned(fromByteOffset: offset &+ 4, as: UInt32.self))
                }
                guard length >= 4 else { return nil }
                offset &+= (length &+ 3) & ~3
            }
            return nil
        }
    }
}
