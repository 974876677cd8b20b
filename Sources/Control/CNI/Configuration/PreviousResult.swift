import Addresses
import JSON

/// What ADD gave, as CHECK needs it.
enum PreviousResult {
    /// The result with a gateway in each route.
    ///
    /// A route without one goes by the gateway of the address of its family: so `bridge` makes it, and so nobody
    /// writes it into the result, where flannel's routes have none. `bridge`'s CHECK then looks for a route without
    /// a gateway, and fails on an interface that is as it should be.
    static func withGateways(_ result: JSONValue) -> JSONValue {
        guard case .array(let routes) = result.member("routes"),
            case .array(let addresses) = result.member("ips")
        else { return result }
        let gateways = addresses.compactMap { $0.member("gateway")?.text }
        return result.setting(
            "routes",
            to: .array(
                routes.map { route in
                    guard route.member("gw")?.text == nil, let destination = route.member("dst")?.text,
                        let gateway = gateways.first(where: { isIPv4($0) == isIPv4(destination) })
                    else { return route }
                    return route.setting("gw", to: .string(gateway))
                }))
    }

    private static func isIPv4(_ text: String) -> Bool {
        IPv4Prefix(text) != nil || IPv4Address(text) != nil
    }
}
