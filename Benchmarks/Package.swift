// swift-tools-version: 6.2
import PackageDescription

// The harness and what it compares with, apart from the daemon: nothing here is in `twilld`, and the
// baseline and the traffic generator use none of its data plane.
let settings: [SwiftSetting] = [
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),
]

let package = Package(
    name: "twill-benchmarks",
    platforms: [.macOS(.v15)],
    products: [
        // Preloaded into daemons while their copies are counted.
        .library(name: "copycount", type: .dynamic, targets: ["CCopyCount"]),
        // Preloaded into iperf3.
        .library(name: "congestion", type: .dynamic, targets: ["CCongestion"]),
    ],
    dependencies: [
        .package(name: "twill", path: ".."),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
        .package(url: "https://github.com/ordo-one/TextTable", from: "0.0.2"),
        .package(url: "https://github.com/ordo-one/benchmark", from: "1.38.1", traits: []),
    ],
    targets: [
        // What the forwarders and the generator are told of where to send.
        .target(
            name: "EndpointArgument",
            dependencies: [
                .product(name: "Addresses", package: "twill"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: settings),
        .target(name: "CMessages"),
        .target(name: "CPerfEvents"),
        .target(name: "CRingLoop"),
        .target(
            name: "RingLoop", dependencies: [.product(name: "TwillDataPlane", package: "twill")],
            swiftSettings: settings),
        .target(name: "CCopyCount"),
        .target(name: "CCongestion"),
        .executableTarget(
            name: "twill-bench",
            dependencies: [
                "CPerfEvents",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "TextTable", package: "TextTable"),
            ],
            swiftSettings: settings),
        .executableTarget(
            name: "traffic",
            dependencies: [
                "EndpointArgument",
                .product(name: "Addresses", package: "twill"),
                "CMessages",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Histogram", package: "hdrhistogram-swift"),
            ],
            swiftSettings: settings),
        .executableTarget(
            name: "baseline",
            dependencies: [
                "EndpointArgument",
                .product(name: "Addresses", package: "twill"),
                "CMessages",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: settings),
        .executableTarget(
            name: "scale-forwarder",
            dependencies: [
                "EndpointArgument",
                .product(name: "TwillDataPlane", package: "twill"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: settings),
        .executableTarget(
            name: "floor",
            dependencies: [
                "EndpointArgument",
                .product(name: "TwillDataPlane", package: "twill"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: settings),
        .executableTarget(
            name: "DataPlane",
            dependencies: [
                .product(name: "TwillDataPlane", package: "twill"),
                .product(name: "CAllocationCount", package: "twill"),
                "CRingLoop", "RingLoop",
                .product(name: "Benchmark", package: "benchmark"),
            ],
            path: "Benchmarks/DataPlane",
            swiftSettings: settings,
            plugins: [.plugin(name: "BenchmarkPlugin", package: "benchmark")]),
        .testTarget(
            name: "TwillBenchTests", dependencies: ["twill-bench"], swiftSettings: settings),
    ],
    swiftLanguageModes: [.v6]
)
