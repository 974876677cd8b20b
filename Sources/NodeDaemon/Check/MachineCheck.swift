import Addresses
import Backends
import Processes
import Engines
import KernelForwarding
import KernelPrograms
import FoundationEssentials
import Glibc
import Devices
import Health
import Leases
import Logging
import Node
import Host
import Worker

/// Looks at the machine: each thing that twilld needs is tried, not inferred from a version.
package enum MachineCheck {
    /// Name of the device that the check makes and takes away again.
    private static let probeTunnelName = "twill-check"
    /// Registered memory that the check asks for: a worker's tunnel buffers, 64 of 64 KiB.
    private static let probeLockedBytes = 64 * 65_600

    /// The network's own port is in its configuration, which the check does not read.
    private static let usualPort = UDPBackend().port

    /// Everything that can be found out before a start.
    ///
    /// - Parameters:
    ///   - underlay: how the underlay is to be chosen.
    ///   - mtu: the tunnel's MTU in bytes as the daemon will be told; nil: it will not be told.
    ///   - isOfKubernetes: whether the machine is a node of a Kubernetes cluster, which needs more.
    package static func findings(
        underlay: UnderlayOptions, mtu: Int?, isOfKubernetes: Bool
    ) async -> [Finding] {
        await onThread { kernelFindings(isOfKubernetes: isOfKubernetes) }
            + (await networkFindings(underlay, mtu: mtu))
    }

    private static func networkFindings(_ options: UnderlayOptions, mtu: Int?) async -> [Finding] {
        let device = NodeOptions.Tunnel().interfaceName
        do {
            let node = try NodeNetwork(
                options: options, exclusions: UnderlayExclusions(interfaceName: device), health: NodeHealth(),
                logger: Logger(label: "check") { _ in SwiftLogNoOpLogHandler() })
            let chosen = try await node.chooseUnderlay()
            let tunnelMTU = try TunnelMTU.choose(
                underlayMTU: chosen.mtu,
                overhead: UDPBackend().overhead(over: chosen.mainAddress.addressFamily), configured: mtu,
                carriesIPv6: chosen.address == nil)
            let endpoint = Endpoint(address: chosen.mainAddress, port: usualPort)
            let (portHolder, deviceHolder) = await onThread {
                (
                    RunningProcess.holder(of: endpoint, .udp)?.description,
                    RunningProcess.holder(ofTunnel: device)?.description
                )
            }
            return [
                Finding(
                    "underlay", .good,
                    "\(chosen.interfaceName) \(chosen.addressText), MTU \(chosen.mtu), which gives the "
                        + "tunnel \(tunnelMTU)"
                ), .port(endpoint, holder: portHolder),
                .device(device, holder: deviceHolder), await forwarding(chosen.mainAddress.addressFamily),
            ]
        } catch {
            return [Finding("underlay", .bad, plainWords(error)), await forwarding(.ipv4)]
        }
    }

    /// Whether the machine forwards packets of the family that a network on its underlay has at least.
    private static func forwarding(_ family: AddressFamily) async -> Finding {
        let path = family == .ipv4 ? "ipv4/ip_forward" : "ipv6/conf/all/forwarding"
        return .forwarding(family, setting: await onThread { setting("/proc/sys/net/\(path)") })
    }

    /// Whether the store of leases answers, and what it says; nothing is written to it.
    package static func storeFinding(_ options: StoreOptions) async -> Finding {
        do {
            let store = try await onThread { try options.open() }
            return .store(store.name, configuration: try await store.snapshot().configuration)
        } catch let error as LeaseStoreError {
            return Finding(
                "store", .bad, error.description,
                remedy: "twilld waits until it answers, and no node gets a subnet before")
        } catch {
            return Finding("store", .bad, plainWords(error))
        }
    }

    /// The findings about the kernel and this process's rights.
    @available(*, noasync, message: "it blocks: use onThread")
    static func kernelFindings(isOfKubernetes: Bool) -> [Finding] {
        var findings = [
            Finding.kernel(release: kernelRelease()),
            .rights(Rights.problem()),
            Finding.uringAllowed(
                setting: setting("/proc/sys/kernel/io_uring_disabled"), isRoot: geteuid() == 0),
        ]
        findings += ring()
        findings += tunnel()
        findings += socket()
        findings.append(
            .rulePrograms(hasNft: ChildProcess("nft") != nil, hasIptables: ChildProcess("iptables") != nil))
        findings.append(kernelPath())
        if isOfKubernetes {
            findings.append(
                .bridgeNetfilter(setting: setting("/proc/sys/net/bridge/bridge-nf-call-iptables")))
        }
        return findings
    }

    private static func ring() -> [Finding] {
        do throws(UringError) {
            var findings = try UringProbe.operations().map { operation in
                operation.isSupported
                    ? Finding("ring operation", .good, operation.name)
                    : Finding(
                        "ring operation", .degraded, operation.name,
                        remedy: "this kernel lacks it: twilld makes plain system calls, which is slower")
            }
            let isRegistered = try UringProbe.makeRing(lockedBytes: probeLockedBytes)
            findings.append(Finding("ring", .good, "made with deferred task work and a buffer ring"))
            findings.append(.lockedMemory(limitBytes: lockedMemoryLimit(), isRegistered: isRegistered))
            return findings
        } catch {
            return [
                Finding("ring", .degraded, "\(error)", remedy: "until then twilld makes plain system calls")
            ]
        }
    }

    private static func tunnel() -> [Finding] {
        do throws(TunnelError) {
            let device = try TunnelDevice.open(
                name: probeTunnelName, queueCount: 1, offloads: .all, patienceMilliseconds: 0)
            defer { device.close() }
            var findings = [Finding("tun", .good, "a device can be made")]
            let offloads: [(String, TunnelOffloads)] = [
                ("checksum", .checksum), ("TSO", [.tcp4, .tcp6]), ("TSO with ECN", .tcpECN), ("USO", .udp),
            ]
            for (name, offload) in offloads {
                findings.append(
                    device.offloads.isSuperset(of: offload)
                        ? Finding("tun offload", .good, name)
                        : Finding(
                            "tun offload", .degraded, name,
                            remedy: "this kernel lacks it (USO: Linux 6.2); twilld runs slower without"))
            }
            return findings
        } catch {
            return [Finding("tun", .bad, "\(error)")]
        }
    }

    private static func kernelPath() -> Finding {
        do throws(KernelProgramError) {
            for family in AddressFamily.allCases { try KernelForwarder.probe(over: family) }
            return Finding(
                "kernel path", .good,
                "its programs load, and carry packets over IPv4 and IPv6; tcpdump on the tunnel device does not see what leaves by it, "
                    + "and a new firewall rule against a peer holds for it some seconds later")
        } catch {
            return Finding(
                "kernel path", .degraded, "\(error)",
                remedy: "until then the packet threads carry small packets too, which takes longer")
        }
    }

    private static func socket() -> [Finding] {
        do throws(UnderlaySocketError) {
            let socket = try UnderlaySocket.open(
                Endpoint(address: IPv4Address(127, 0, 0, 1), port: 0),
                bufferBytes: Tuning().socketBufferBytes, segmentation: true, coalescing: true)
            defer { socket.close() }
            return [
                socket.offloads.segmentation
                    ? Finding("udp GSO", .good, "\(socket.offloads.segmentLimit) segments a send")
                    : Finding("udp GSO", .degraded, "missing", remedy: "twilld sends packets one by one"),
                socket.offloads.coalescing
                    ? Finding("udp GRO", .good, "available")
                    : Finding("udp GRO", .degraded, "missing", remedy: "twilld receives packets one by one"),
                // The kernel counts twice what it was asked for.
                socket.receiveBufferBytes >= 2 * Tuning().socketBufferBytes
                    ? Finding("udp buffer", .good, "\(socket.receiveBufferBytes / 1024) KiB")
                    : Finding(
                        "udp buffer", .degraded, "\(socket.receiveBufferBytes / 1024) KiB",
                        remedy:
                            "bursts get lost; run with CAP_NET_ADMIN, or "
                            + "sysctl -w net.core.rmem_max=\(Tuning().socketBufferBytes)"),
            ]
        } catch {
            return [Finding("udp", .bad, "\(error)")]
        }
    }

    /// The kernel's release; empty where it does not tell.
    static func kernelRelease() -> String {
        var name = utsname()
        guard uname(&name) == 0 else { return "" }
        return withUnsafeBytes(of: &name.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }

    private static func lockedMemoryLimit() -> UInt64? {
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &limit)
        return limit.rlim_cur == rlim_t.max ? nil : UInt64(limit.rlim_cur)
    }

    private static func setting(_ path: String) -> String? {
        guard let text = try? TextFile.read(path) else { return nil }
        return String(text.prefix { !$0.isWhitespace })
    }
}
