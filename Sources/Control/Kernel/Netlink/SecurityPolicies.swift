import CLinux
import Glibc

/// IPsec's policies (ip-xfrm(8)): which packets the kernel encrypts on their way out, in the network namespace of the
/// calling thread.
public enum SecurityPolicies {
    /// How many policies for packets on their way out there are. 0 in a kernel without IPsec.
    ///
    /// - Throws: `NetlinkError` where the kernel does not tell.
    public static func outboundCount() throws(NetlinkError) -> Int {
        let operation = "count IPsec policies"
        let socket: NetlinkDescriptor
        do throws(NetlinkError) {
            socket = try NetlinkDescriptor(protocolNumber: NETLINK_XFRM, groups: [], operation: operation)
        } catch {
            if [EPROTONOSUPPORT, EAFNOSUPPORT].contains(error.code) { return 0 }
            throw error
        }
        var message = MessageWriter(type: .getSecurityInformation, flags: .request)
        message.append(UInt32(0))
        let sequence: UInt32 = 1
        try socket.send(message.finish(sequence: sequence), operation: operation)
        var reply = Reply(to: operation, sequence: sequence)
        while true {
            let status = try reply.take(socket.receive(operation: operation))
            for answer in reply.takeMessages() where answer.type == .newSecurityInformation {
                // The same number comes first; then `struct xfrmu_spdinfo`: policies in, out, forwarded.
                let counts = answer.attributes(after: MemoryLayout<UInt32>.size)[countsAttribute]
                return counts.flatMap { $0.number(at: 4, as: UInt32.self) }.map(Int.init) ?? 0
            }
            if status != .incomplete {
                throw NetlinkError(
                    operation: operation, code: EBADMSG, message: "the reply holds no counts")
            }
        }
    }

    /// XFRMA_SPD_INFO of linux/xfrm.h.
    private static let countsAttribute = 1
}
