import CLinux
import Glibc

/// Which packets of an interface a program sees.
public enum PacketDirection: Sendable, Hashable, CaseIterable {
    /// Those that come in by it.
    case ingress
    /// Those that leave by it.
    case egress
}

/// A program's place in the way of an interface's packets, behind those of others (TCX, Linux 6.6). It ends with its last
/// descriptor, so that a process that is killed leaves none behind.
public struct KernelLink: Sendable {
    /// The link's descriptor; the owner closes it.
    public let descriptor: Int32

    /// Puts a program there.
    ///
    /// - Throws: `KernelProgramError` where the kernel refuses it: `EINVAL` where it has no such places.
    public static func make(
        _ program: KernelProgram, interfaceIndex: UInt32, _ direction: PacketDirection
    ) throws(KernelProgramError) -> KernelLink {
        let descriptor = twill_link_make(
            program.descriptor, interfaceIndex,
            direction == .ingress ? TWILL_PROGRAM_INGRESS : TWILL_PROGRAM_EGRESS)
        guard descriptor >= 0 else {
            throw KernelProgramError(
                "attach a program to interface \(interfaceIndex)", errorNumber: errno)
        }
        return KernelLink(descriptor: descriptor)
    }

    /// Takes over a link from whoever made it.
    public init(descriptor: Int32) { self.descriptor = descriptor }

    /// Puts another program in its place, between two packets.
    ///
    /// - Returns: whether the kernel did.
    public func replace(with program: KernelProgram) -> Bool {
        twill_link_replace(descriptor, program.descriptor) == 0
    }

    /// The interface's number; nil where it is gone, or somebody took the link away.
    public var interfaceIndex: UInt32? {
        var index: UInt32 = 0
        return twill_link_interface(descriptor, &index) == 0 && index != 0 ? index : nil
    }

    /// Closes the descriptor.
    public func close() { Glibc.close(descriptor) }
}
