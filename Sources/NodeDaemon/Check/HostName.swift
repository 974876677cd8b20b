import Addresses
import Glibc

/// What machines are called: this one, and an address, which the machine's resolver is asked for.
package enum HostName {
    /// The name of this machine, without the domain; nil where it has none.
    package static var own: String? {
        var name = utsname()
        guard uname(&name) == 0 else { return nil }
        let whole = withUnsafeBytes(of: &name.nodename) {
            String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
        }
        return whole.split(separator: ".").first.map(String.init)
    }

    /// The name of a host, without the domain; nil where nobody knows one. It may take as long as a name server does.
    ///
    /// - Parameter address: IPv4 or IPv6, in brackets or without.
    @available(*, noasync, message: "it blocks: use onThread")
    package static func of(address text: String) -> String? {
        let bare = text.filter { $0 != "[" && $0 != "]" }
        guard let address = IPv4Address(bare).map(IPAddress.v4) ?? IPv6Address(bare).map(IPAddress.v6) else {
            return nil
        }
        var name = [CChar](repeating: 0, count: Int(NI_MAXHOST))
        let result = Endpoint(address: address, port: 0).withSocketName { socketName, length in
            getnameinfo(socketName, length, &name, socklen_t(clamping: name.count), nil, 0, NI_NAMEREQD)
        }
        guard result == 0 else { return nil }
        let whole = String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return whole.split(separator: ".").first.map(String.init)
    }
}
