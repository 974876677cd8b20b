import Addresses
import Glibc
import Testing

/// Names of sockets, held against the C library's structures.
@Suite struct SocketNameTests {
    @Test func anIPv4NameIsAsTheCLibraryHasIt() throws {
        let address = try #require(IPv4Address("192.0.2.1"))
        Endpoint(address: address, port: 8285).withSocketName { name, length in
            #expect(Int(length) == MemoryLayout<sockaddr_in>.size)
            let read = UnsafeRawPointer(name).load(as: sockaddr_in.self)
            #expect(Int32(read.sin_family) == AF_INET && UInt16(bigEndian: read.sin_port) == 8285)
            #expect(read.sin_addr.s_addr == address.networkBytes)
            #expect(IPAddress(socketName: name) == .v4(address))
        }
    }

    @Test func anIPv6NameIsAsTheCLibraryHasIt() throws {
        let address = try #require(IPv6Address("fd00:1:2:3:4:5:6:7"))
        Endpoint(address: .v6(address), port: 8285).withSocketName { name, length in
            #expect(Int(length) == MemoryLayout<sockaddr_in6>.size)
            let read = UnsafeRawPointer(name).load(as: sockaddr_in6.self)
            #expect(Int32(read.sin6_family) == AF_INET6 && UInt16(bigEndian: read.sin6_port) == 8285)
            #expect(read.sin6_flowinfo == 0 && read.sin6_scope_id == 0)
            var bytes = read.sin6_addr
            var expected = in6_addr()
            inet_pton(AF_INET6, "fd00:1:2:3:4:5:6:7", &expected)
            #expect(memcmp(&bytes, &expected, 16) == 0)
            #expect(IPAddress(socketName: name) == .v6(address))
        }
        #expect(MemoryLayout<sockaddr_in6>.size <= SocketName.room)
    }

    @Test func aNameOfNeitherFamilyHasNoAddress() {
        let name = [UInt64](repeating: 0, count: SocketName.room / 8)
        #expect(name.withUnsafeBytes { IPAddress(socketName: $0.baseAddress!) } == nil)
    }

    @Test func endpointsOfBothFamiliesAreWrittenAsTheyAreParsed() throws {
        let address = try #require(IPv6Address("fd00::1"))
        #expect("\(Endpoint(address: .v6(address), port: 1))" == "[fd00::1]:1")
        #expect(IPAddress.v4(IPv4Address(255, 0, 0, 0)) < .v6(.any))
        #expect(IPAddress.v4(IPv4Address(1, 2, 3, 4)) < .v4(IPv4Address(1, 2, 3, 5)))
        #expect(!(IPAddress.v6(address) < .v6(.any)))
    }

    @Test func anEndpointIsReadAsItIsWritten() throws {
        let ipv6 = try #require(IPv6Address("fd20:32::102"))
        for endpoint in [
            Endpoint(address: IPv4Address(198, 18, 9, 2), port: 8285),
            Endpoint(address: IPv4Address(198, 18, 9, 2), port: 0), Endpoint(address: .v6(ipv6), port: 8285),
            Endpoint(address: .v6(ipv6), port: 0),
        ] { #expect(Endpoint("\(endpoint)") == endpoint) }
        for text in [
            "", ":", ":1", "198.18.9.2:", "198.18.9.2:65536", "[198.18.9.2]:1", "[fd20::1]", "[fd20::1]:",
            "x:1",
        ] {
            #expect(Endpoint(text) == nil, "\(text)")
        }
    }
}
