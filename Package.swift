// swift-tools-version: 6.2
import PackageDescription

// Two sides that meet only in `NodeDaemon`, the daemon, and in `twilld`, its command line: `Sources/DataPlane`, which
// moves packets and imports no Foundation, no logging and no concurrency runtime; and `Sources/Control`, which never
// touches a packet. Both know `Sources/Common`. A module's dependencies stand here and nowhere else;
// `tools/check-imports` holds the sources to them. ARCHITECTURE.md explains the rules.
//
// TWILL_WITHOUT_GRPC=1 leaves out what speaks gRPC and TLS: the etcd store and the client of Kubernetes. The daemon then has
// leases in a directory alone, and builds in a fraction of the time (ADR 96).
let withoutGRPC = Context.environment["TWILL_WITHOUT_GRPC"] == "1"

let settings: [SwiftSetting] =
    [
        .treatAllWarnings(as: .error),
        .enableUpcomingFeature("ExistentialAny"),
    ] + (withoutGRPC ? [.define("TWILL_WITHOUT_GRPC")] : [])

// TWILL_EXTRA_COPY=1 makes a daemon that copies each packet once more than it must: docs/benchmarks.md shows with it
// that the benchmark harness sees such a thing.
// TWILL_WITHOUT_RECORDS=1 makes one that keeps no packets for people and times none: docs/benchmarks.md
// measures with it what that costs.
let workerSettings =
    settings
    + ["TWILL_EXTRA_COPY", "TWILL_WITHOUT_RECORDS"].filter { Context.environment[$0] == "1" }.map {
        .define($0)
    }

/// A module in a folder of its name, which stands in `room`, a folder of `Sources`.
func module(
    _ name: String, in room: String, _ dependencies: [Target.Dependency] = [],
    settings: [SwiftSetting] = settings
) -> Target {
    .target(
        name: name, dependencies: dependencies, path: "Sources/\(room)/\(name)", swiftSettings: settings)
}

func tests(_ name: String, _ dependencies: [Target.Dependency], resources: [Resource] = []) -> Target {
    .testTarget(
        name: name + "Tests", dependencies: [.byName(name: name)] + dependencies, resources: resources,
        swiftSettings: settings)
}

let common: [Target] = [
    .target(name: "CLinux", path: "Sources/Common/CLinux"),
    module("Addresses", in: "Common"),
    module("Processes", in: "Common", ["Addresses"]),
    module("KernelPrograms", in: "Common", ["CLinux"]),

    tests("Addresses", []),
    tests("Processes", ["Addresses"]),
]

// In the order of a packet's way: read from a device by an engine, cut by offload, forwarded to a peer, sent.
let dataPlane: [Target] = [
    module("Devices", in: "DataPlane", ["Addresses", "Processes", "CLinux"]),
    .systemLibrary(
        name: "CLiburing", path: "Sources/DataPlane/CLiburing", pkgConfig: "liburing",
        providers: [.apt(["liburing-dev"])]),
    module("Engines", in: "DataPlane", ["Addresses", "CLiburing", "CLinux"]),
    module("PacketHeaders", in: "DataPlane", ["Addresses", "CLinux"]),
    module("Offload", in: "DataPlane", ["PacketHeaders", "CLinux"]),
    module("Forwarding", in: "DataPlane", ["Addresses"]),
    module("Counters", in: "DataPlane"),
    // Beside the workers: programs in the kernel. Theirs is C, which the target does not compile: it has their
    // instructions (tools/generate-kernel-path).
    .target(
        name: "CKernelForwarding", path: "Sources/DataPlane/CKernelForwarding", exclude: ["programs"]),
    module(
        "KernelForwarding", in: "DataPlane",
        ["Addresses", "CKernelForwarding", "Counters", "Forwarding", "KernelPrograms"]),
    module("Hello", in: "DataPlane", ["Addresses", "CLinux"]),
    module(
        "Worker", in: "DataPlane",
        [
            "Addresses", "PacketHeaders", "Offload", "Forwarding", "Counters", "Devices", "Engines",
            "Hello", "KernelForwarding", "KernelPrograms", "CLinux",
        ], settings: workerSettings),

    tests("PacketHeaders", ["Addresses"]),
    tests("Offload", ["PacketHeaders", "CLinux", "NetworkNamespaces", "Seeded"]),
    tests("Forwarding", ["Addresses", "Seeded"]),
    tests("Hello", ["Addresses", "CLinux", "Seeded"]),
    tests("Devices", ["Addresses", "Processes", "CLinux", "NetworkNamespaces"]),
    tests(
        "KernelForwarding",
        [
            "Addresses", "CKernelForwarding", "Counters", "Devices", "Forwarding", "KernelPrograms",
            "NetworkNamespaces", "PacketHeaders", "Seeded",
        ]),
    tests("Engines", ["Addresses", "CLinux"]),
    .target(name: "CAllocationCount", path: "Tests/CAllocationCount"),
    tests(
        "Worker",
        [
            "CAllocationCount", "Addresses", "PacketHeaders", "Offload", "Forwarding", "Counters",
            "Engines", "Hello", "CLinux", "Seeded",
        ]),

    // What every seeded test draws from.
    .target(name: "Seeded", path: "Tests/Seeded", swiftSettings: settings),
]

let controlSide: [Target] = [
    module("Health", in: "Control", [.product(name: "Logging", package: "swift-log")]),
    module("Netlink", in: "Control/Kernel", ["Addresses", "Host", "CLinux"]),
    module("Host", in: "Control/Kernel", ["Processes", "CLinux"]),
    module(
        "Reconciler", in: "Control/Kernel",
        ["Addresses", "Health", "Host", "Netlink", .product(name: "Logging", package: "swift-log")]),
    module(
        "TrafficControl", in: "Control/Kernel",
        ["Health", "KernelPrograms", "Netlink", "Reconciler"]),
    module(
        "Firewall", in: "Control/Kernel",
        ["Addresses", "Health", "Host", "Netlink", "Reconciler", "CLinux"]),
    module(
        "Node", in: "Control",
        [
            "Addresses", "Processes", "Health", "Host", "JSON", "Netlink", "Reconciler",
            "Firewall",
            "TrafficControl", "CLinux",
            .product(name: "Logging", package: "swift-log"),
        ]),
    module("JSON", in: "Control"),
    module("Backends", in: "Control", ["Addresses", "Health", "Host", "JSON", "Netlink", "Reconciler"]),
    module(
        "Leases", in: "Control",
        [
            "Addresses", "Backends", "Health", "JSON", .product(name: "Logging", package: "swift-log"),
        ]),
    module("LeaseDirectory", in: "Control/Stores", ["Health", "Leases"]),
    // Kubernetes' nodes as peers: what is decided, without I/O.
    .systemLibrary(
        name: "CLibyaml", path: "Sources/Control/Kubernetes/CLibyaml", pkgConfig: "yaml-0.1",
        providers: [.apt(["libyaml-dev"])]),
    module(
        "KubernetesNodes", in: "Control/Kubernetes",
        [
            "Addresses", "Backends", "CLibyaml", "Health", "JSON", "Leases",
            .product(name: "Logging", package: "swift-log"),
        ]),
    module("Telemetry", in: "Control", ["Counters", "Addresses", "Health"]),
    // The CNI plugin: nothing that needs a library of the host, and no package.
    module("CNI", in: "Control", ["Addresses", "Processes", "Host", "JSON", "CLinux"]),
    .executableTarget(name: "twill-cni", dependencies: ["CNI"], swiftSettings: settings),
    module("Diagnosis", in: "Control", ["Addresses", "CLinux"]),

    // What the tests of the lease side share: a node that records, and a simulated store.
    .target(
        name: "LeaseTesting",
        dependencies: [
            "Addresses", "Backends", "Disturbances", "Health", "Leases", "Seeded",
            .product(name: "Logging", package: "swift-log"),
        ],
        path: "Tests/LeaseTesting", swiftSettings: settings),
    // The deck of a soak, which a lab of real daemons and a lease simulation play.
    .target(
        name: "Disturbances", dependencies: ["Seeded"], path: "Tests/Disturbances", swiftSettings: settings),
    tests("Disturbances", ["Seeded"]),
    // Repeats a seed of the simulated network of lease machines.
    .executableTarget(
        name: "twill-lease-simulation", dependencies: ["LeaseTesting"], path: "Tests/LeaseSimulationProgram",
        swiftSettings: settings),
    .target(name: "CNetworkNamespaces", path: "Tests/CNetworkNamespaces"),
    .target(
        name: "NetworkNamespaces", dependencies: ["CLinux", "CNetworkNamespaces"],
        path: "Tests/NetworkNamespaces",
        swiftSettings: settings),

    // Nodes, pods and real daemons in namespaces, for tests of the whole.
    .target(
        name: "Kit",
        dependencies: [
            "Addresses", "CLinux", "CNetworkNamespaces", "Counters", "CServiceKeeper", "NetworkNamespaces",
            "Telemetry",
        ],
        path: "Tests/Kit", swiftSettings: settings),

    .target(name: "CServiceKeeper", path: "Tests/CServiceKeeper"),

    // The programs behind tools/soak, tools/test-upgrade and tools/test-mixed.
    .executableTarget(
        name: "twill-soak",
        dependencies: ["Disturbances", "Kit", "NetworkNamespaces", "Seeded", "Telemetry"],
        path: "Tests/SoakProgram", swiftSettings: settings),
    .executableTarget(
        name: "twill-upgrade", dependencies: ["Counters", "Kit", "NetworkNamespaces"],
        path: "Tests/UpgradeProgram",
        swiftSettings: settings),
    .executableTarget(
        name: "twill-mixed",
        dependencies: ["Addresses", "Counters", "Kit", "NetworkNamespaces", "Telemetry"],
        path: "Tests/MixedProgram", swiftSettings: settings),

    // One seeded driver over every parser, and the program that runs it: docs/robustness.md.
    .target(
        name: "Fuzz",
        dependencies: [
            "Addresses", "PacketHeaders", "Offload", "Forwarding", "Counters", "Engines", "Worker", "CNI",
            "Netlink", "Firewall", "Backends", "JSON", "KubernetesNodes", "Leases", "LeaseDirectory", "Node",
            "Telemetry", "CLinux", "Seeded",
        ], path: "Tests/Fuzz", swiftSettings: settings),
    .executableTarget(
        name: "twill-fuzz", dependencies: ["Fuzz"], path: "Tests/FuzzProgram", swiftSettings: settings),

    tests("Health", []),
    tests("Netlink", ["Addresses", "CLinux", "NetworkNamespaces", "Seeded"]),
    tests(
        "Backends", ["Addresses", "Health", "JSON", "Leases", "LeaseTesting", "Netlink", "Reconciler"]),
    tests("Leases", ["Addresses", "Backends", "Health", "JSON", "LeaseTesting"]),
    tests("LeaseDirectory", ["Addresses", "Health", "Leases", "LeaseTesting"]),
    tests("Host", ["CLinux"]),
    tests(
        "Reconciler",
        [
            "Addresses", "Health", "Netlink", "NetworkNamespaces",
            .product(name: "Logging", package: "swift-log"),
        ]),
    tests(
        "TrafficControl",
        ["Health", "KernelForwarding", "KernelPrograms", "Netlink", "NetworkNamespaces", "Reconciler"]),
    tests("Firewall", ["Addresses", "Health", "Netlink", "Reconciler", "NetworkNamespaces"]),
    tests(
        "Node",
        [
            "Addresses", "Backends", "Health", "Host", "JSON", "Netlink", "Reconciler", "NetworkNamespaces",
            .product(name: "Logging", package: "swift-log"),
        ]),
    tests("Telemetry", ["Addresses", "Counters", "Health"]),
    tests("CNI", ["twill-cni", "Addresses", "Host", "JSON", "NetworkNamespaces"]),
    tests(
        "KubernetesNodes",
        [
            "Addresses", "Health", "JSON", "Leases", "Seeded",
            .product(name: "Logging", package: "swift-log"),
        ]),
    tests("Diagnosis", ["Addresses", "NetworkNamespaces"]),
]

let etcdAndKubernetes: [Target] = [
    .target(
        name: "EtcdAPI",
        dependencies: [
            .product(name: "GRPCCore", package: "grpc-swift-2"),
            .product(name: "GRPCProtobuf", package: "grpc-swift-protobuf"),
        ],
        path: "Sources/Control/Stores/EtcdAPI", exclude: ["etcd.proto"]),
    module(
        "LeaseEtcd", in: "Control/Stores",
        [
            "Addresses", "Host", "Leases", "EtcdAPI",
            .product(name: "GRPCCore", package: "grpc-swift-2"),
            .product(name: "GRPCNIOTransportHTTP2Posix", package: "grpc-swift-nio-transport"),
            .product(name: "Logging", package: "swift-log"),
        ]),
    // Asks the API server what `KubernetesNodes` decides.
    module(
        "KubernetesClient", in: "Control/Kubernetes",
        [
            "Addresses", "Health", "Host", "JSON", "KubernetesNodes", "Leases",
            .product(name: "AsyncHTTPClient", package: "async-http-client"),
            .product(name: "Logging", package: "swift-log"),
            .product(name: "NIOCore", package: "swift-nio"),
            .product(name: "NIOHTTP1", package: "swift-nio"),
            .product(name: "NIOPosix", package: "swift-nio"),
            .product(name: "NIOSSL", package: "swift-nio-ssl"),
        ]),
]

let daemon: [Target] = [
    .target(name: "CBuildStamp"),
    // The daemon, for a command line and for tests; here the two sides meet.
    .target(
        name: "NodeDaemon",
        dependencies: [
            "Addresses", "Processes", "Forwarding", "Counters", "Devices", "Engines", "Worker",
            "Backends", "Diagnosis", "Health", "JSON", "KubernetesNodes", "Netlink", "Host",
            "Reconciler", "Firewall", "Leases", "Node", "Telemetry", "CLinux", "CBuildStamp",
            "KernelForwarding", "KernelPrograms", "TrafficControl",
            .product(name: "Logging", package: "swift-log"),
            .product(name: "NIOCore", package: "swift-nio"),
            .product(name: "NIOPosix", package: "swift-nio"),
            .product(name: "NIOHTTP1", package: "swift-nio"),
            .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
            .product(name: "UnixSignals", package: "swift-service-lifecycle"),
        ] + (withoutGRPC ? [] : ["KubernetesClient"]),
        swiftSettings: settings),
    .executableTarget(
        name: "twilld",
        dependencies: [
            "NodeDaemon", "Addresses", "Devices", "Health", "Host", "KubernetesNodes", "LeaseDirectory",
            "Leases", "Node", "Telemetry", "Worker",
            .product(name: "ArgumentParser", package: "swift-argument-parser"),
            .product(name: "Logging", package: "swift-log"),
        ] + (withoutGRPC ? [] : ["LeaseEtcd"]),
        swiftSettings: settings),
]

let testsOfTheWhole: [Target] = [
    tests(
        "NodeDaemon",
        [
            "Addresses", "CLinux", "Counters", "Forwarding", "Health", "Host", "Kit", "LeaseDirectory",
            "Leases", "NetworkNamespaces",
            "Node", "Telemetry", "Worker",
            .product(name: "NIOCore", package: "swift-nio"),
            .product(name: "NIOHTTP1", package: "swift-nio"),
            .product(name: "Logging", package: "swift-log"),
        ]),
    tests("LeaseEtcd", ["Addresses", "EtcdAPI", "Fuzz", "Kit", "Leases", "LeaseTesting"]),
    // An API server in the tests' process, which does wrong what it is told to.
    .target(
        name: "KubernetesTesting",
        dependencies: [
            "Kit", "KubernetesNodes", "NetworkNamespaces",
            .product(name: "NIOCore", package: "swift-nio"),
            .product(name: "NIOHTTP1", package: "swift-nio"),
            .product(name: "NIOPosix", package: "swift-nio"),
            .product(name: "NIOSSL", package: "swift-nio-ssl"),
        ], path: "Tests/KubernetesTesting", swiftSettings: settings),
    // What a node of a large cluster needs, and what it costs its API server: printed, nowhere judged.
    .executableTarget(
        name: "twill-cluster-cost",
        dependencies: [
            "Addresses", "KubernetesClient", "KubernetesNodes", "KubernetesTesting", "Leases",
            .product(name: "Logging", package: "swift-log"),
        ], path: "Tests/ClusterCostProgram", swiftSettings: settings),
    tests(
        "KubernetesClient",
        [
            "Addresses", "Health", "Kit", "KubernetesNodes", "KubernetesTesting", "Leases",
            .product(name: "Logging", package: "swift-log"),
        ]),
    // What the world does to a node: each kind of fault with real daemons; docs/robustness.md is its table.
    .testTarget(
        name: "WorldTests",
        dependencies: [
            "twilld", "Addresses", "Counters", "Fuzz", "Kit", "Health", "KubernetesNodes",
            "KubernetesTesting", "NetworkNamespaces", "NodeDaemon", "Offload", "Telemetry",
        ],
        swiftSettings: settings),
    // A network of nodes from outside: real daemons on a real etcd, driven by flags, signals and the store alone.
    .testTarget(
        name: "NamespaceTests",
        dependencies: [
            "twilld", "Addresses", "Counters", "Kit", "KubernetesNodes", "KubernetesTesting",
            "NetworkNamespaces", "Telemetry",
        ], swiftSettings: settings),
    .testTarget(
        name: "CommandTests",
        dependencies: [
            "twilld", "NodeDaemon", "Addresses", "CLinux", "Counters", "Devices", "Fuzz", "Host", "Kit",
            "KubernetesNodes", "LeaseDirectory", "LeaseEtcd", "Leases", "NetworkNamespaces", "Node",
            "Reconciler", "Telemetry", "Worker",
            .product(name: "ArgumentParser", package: "swift-argument-parser"),
            .product(name: "Logging", package: "swift-log"),
        ], swiftSettings: settings),
]

let package = Package(
    name: "twill",
    platforms: [.macOS(.v15)],  // what gRPC asks of the manifest; twill itself is for Linux alone
    products: [
        .library(
            name: "TwillDataPlane",
            targets: [
                "Addresses", "PacketHeaders", "Offload", "Forwarding", "Counters", "Hello", "Devices",
                "Engines", "Worker",
            ]),
        // What the forwarders in Benchmarks/ share with the daemon.
        .library(name: "Addresses", targets: ["Addresses"]),
        // What its micro-benchmarks share with the tests.
        .library(name: "CAllocationCount", targets: ["CAllocationCount"]),
        .executable(name: "twill-cni", targets: ["twill-cni"]),
        .executable(name: "twilld", targets: ["twilld"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
    ]
        + (withoutGRPC
            ? []
            : [
                .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.6"),
                .package(url: "https://github.com/swift-server/async-http-client", from: "1.37.0"),
                .package(url: "https://github.com/grpc/grpc-swift-2", from: "2.4.3"),
                .package(url: "https://github.com/grpc/grpc-swift-nio-transport", from: "2.9.2"),
                .package(url: "https://github.com/grpc/grpc-swift-protobuf", from: "2.4.1"),
            ]),
    targets: common + dataPlane + controlSide + daemon
        + (withoutGRPC ? [] : etcdAndKubernetes + testsOfTheWhole),
    swiftLanguageModes: [.v6]
)
