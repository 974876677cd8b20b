import CLinux
import Glibc

/// A program that the kernel runs for each packet of an interface (BPF_PROG_TYPE_SCHED_CLS).
public struct KernelProgram: Sendable {
    /// The program's descriptor; the owner closes it.
    public let descriptor: Int32

    /// The room for what the kernel says of a program that it refuses, bytes: its last line tells why.
    private static let wordsLimit = 1 << 18

    /// Loads a program.
    ///
    /// - Parameters:
    ///   - instructions: the program. A load of a 64-bit constant whose upper half is `mark` stands for the map whose
    ///     number its lower half is.
    ///   - mark: see there.
    ///   - maps: the maps by their numbers.
    ///   - name: what `bpftool prog` shows, 15 bytes at most.
    /// - Throws: `KernelProgramError` where the kernel refuses it.
    public static func load(
        _ instructions: UnsafeBufferPointer<UInt64>, mark: UInt32, maps: [KernelMap], name: String
    ) throws(KernelProgramError) -> KernelProgram {
        let code = linked(Array(instructions), mark: mark, maps: maps)
        var words = [CChar](repeating: 0, count: wordsLimit)
        let descriptor = twill_program_load(
            code, UInt32(clamping: code.count), name, &words, UInt32(clamping: wordsLimit))
        guard descriptor >= 0 else {
            let code = errno
            throw KernelProgramError(
                "load the program \(name)", errorNumber: code, words: lastLine(words))
        }
        return KernelProgram(descriptor: descriptor)
    }

    /// Takes over a program from whoever loaded it.
    public init(descriptor: Int32) { self.descriptor = descriptor }

    /// Puts maps' descriptors into the place of their marks. An instruction is 8 bits of code, 4 of the register that is
    /// written, 4 of the one that is read, 16 of offset and 32 of constant; the load of 64 bits is two, and the second
    /// has the upper half. That its constant is a map's descriptor is said by the number 1 in the place of the register
    /// that is read.
    private static func linked(_ instructions: [UInt64], mark: UInt32, maps: [KernelMap]) -> [UInt64] {
        let (loadOf64Bits, isMap): (UInt64, UInt64) = (0x18, 1 << 12)
        var code = instructions
        var place = 0
        while place + 1 < code.count {
            defer { place += 1 }
            guard code[place] & 0xFF == loadOf64Bits else { continue }
            defer { place += 1 }
            let number = Int(code[place] >> 32)  // checked: 32 bits
            guard code[place + 1] >> 32 == UInt64(mark), maps.indices.contains(number) else { continue }
            let descriptor = UInt64(UInt32(bitPattern: maps[number].descriptor))
            code[place] = code[place] & 0xFFFF_0FFF | isMap | descriptor << 32
            code[place + 1] = 0
        }
        return code
    }

    /// The last line that is no statistics.
    private static func lastLine(_ words: [CChar]) -> String {
        let text = String(decoding: words.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
        let lines = text.split(separator: "\n").filter { !$0.hasPrefix("processed ") }
        return String((lines.last ?? "").prefix(120))
    }

    /// What a run came to.
    public struct Run: Sendable, Equatable {
        /// What the program returned.
        public let verdict: Int32
        /// The packet afterwards.
        public let packet: [UInt8]
    }

    /// Runs the program once on a packet of this process (BPF_PROG_TEST_RUN); nothing leaves the machine.
    ///
    /// - Parameters:
    ///   - packet: 14 bytes or more: an Ethernet header comes first.
    ///   - segmentBytes: of each of the datagrams that were merged in it; 0: it is one.
    /// - Returns: nil where the kernel does not run it.
    public func run(on packet: [UInt8], segmentBytes: Int = 0) -> Run? {
        // Room for headers that a program puts before it.
        var changed = [UInt8](repeating: 0, count: packet.count + 256)
        var changedBytes = UInt32(clamping: changed.count)
        var verdict: Int32 = 0
        guard
            twill_program_run(
                descriptor, packet, UInt32(clamping: packet.count), UInt32(clamping: segmentBytes), &changed,
                &changedBytes, &verdict) == 0
        else { return nil }
        return Run(
            verdict: verdict, packet: Array(changed.prefix(Int(clamping: changedBytes))))
    }

    /// The kernel's number of it, by which a list of programs names it; nil where the kernel does not tell.
    public var identifier: UInt32? {
        let identifier = twill_program_identifier(descriptor)
        return identifier == 0 ? nil : identifier
    }

    /// Closes the descriptor. A program that stands in an interface's way goes on.
    public func close() { Glibc.close(descriptor) }
}
