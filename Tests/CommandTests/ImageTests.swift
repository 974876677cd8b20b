import FoundationEssentials
import Glibc
import NetworkNamespaces
import NodeDaemon
import Testing

/// `tools/image`, with small programs in the place of twilld and its plugin: how an image is put together does not
/// depend on what they do.
@Suite(.serialized) struct ImageTests {
    private static let root = String(#filePath.dropLast("/Tests/CommandTests/ImageTests.swift".count))

    private struct Descriptor: Decodable {
        var digest: String
        var size: Int
        var annotations: [String: String]?
    }
    private struct Index: Decodable { var manifests: [Descriptor] }
    private struct Manifest: Decodable {
        var config: Descriptor
        var layers: [Descriptor]
        var annotations: [String: String]
    }
    private struct Configuration: Decodable {
        struct Process: Decodable {
            var Entrypoint: [String]
            var Labels: [String: String]
        }
        var config: Process
        var created: String
    }
    private struct Materials: Decodable {
        struct Package: Decodable {
            var name: String
            var versionInfo: String
            var licenseDeclared: String
        }
        struct File: Decodable { var fileName: String }
        var packages: [Package]
        var files: [File]
    }

    /// Builds into folder `out` of `place`, and gives what was printed.
    private static func build(in place: String, out: String) throws -> String {
        try execute(
            "SOURCE_DATE_EPOCH=1700000000 '\(root)/tools/image' --twilld \(place)/twilld"
                + " --cni \(place)/twill-cni --out \(place)/\(out)"
        )
    }

    /// A folder with the two programs and what they were linked from, which goes after `body`.
    private static func withPrograms(_ body: (String) throws -> Void) throws {
        let place = "/tmp/twill-test-image-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
        defer { try? FileManager.default.removeItem(atPath: place) }
        for (name, modules) in [("twilld", ["NIOCore", "Logging"]), ("twill-cni", ["Logging"])] {
            try FileManager.default.createDirectory(
                atPath: "\(place)/\(name).product", withIntermediateDirectories: true)
            let objects = modules.map { "\(place)/\($0).build/File.swift.o\n" }.joined()
            try Data(objects.utf8).write(to: URL(filePath: "\(place)/\(name).product/Objects.LinkFileList"))
            try execute("cp -L \(name == "twilld" ? "/usr/bin/ping" : "/usr/sbin/ldconfig") \(place)/\(name)")
        }
        try body(place)
    }

    private static func decode<Value: Decodable>(_ path: String, as _: Value.Type) throws -> Value {
        try JSONDecoder().decode(Value.self, from: Data(contentsOf: URL(filePath: path)))
    }

    @Test func theDigestIsTheSameForTheSamePrograms() throws {
        try Self.withPrograms { place in
            let first = try Self.build(in: place, out: "first")
            // Other times, another folder.
            try execute("touch -d 2001-01-01 \(place)/twilld \(place)/twill-cni")
            let second = try Self.build(in: place, out: "second")
            #expect(first == second && first.contains("@sha256:"), "\(first) \(second)")
            try execute("diff -r \(place)/first \(place)/second")
            // What strip takes away does not count; what the program does, does.
            try execute("cp -L /usr/bin/true \(place)/twilld")
            #expect(try Self.build(in: place, out: "third") != first)
        }
    }

    @Test func theImageIsWhatItSaysAndHasWhatIsLinkedAlone() throws {
        try Self.withPrograms { place in
            let name = try Self.build(in: place, out: "out")
            let layout = "\(place)/out/layout"
            try execute(
                "cd \(layout)/blobs/sha256 && for f in *; do echo \"$f  $f\" | sha256sum -c --quiet; done")
            try execute(
                "mkdir \(place)/tar && cd \(place)/tar && tar -xf ../out/twill.tar && diff -r \(layout) ."
            )
            let entry = try #require(try Self.decode("\(layout)/index.json", as: Index.self).manifests.first)
            #expect(name.contains("localhost/twill:\(Version.text)@\(entry.digest)"))
            #expect(entry.annotations?["io.containerd.image.name"] == "localhost/twill:\(Version.text)")
            func blob(_ descriptor: Descriptor) -> String {
                "\(layout)/blobs/sha256/\(descriptor.digest.dropFirst("sha256:".count))"
            }
            let manifest = try Self.decode(blob(entry), as: Manifest.self)
            let configuration = try Self.decode(blob(manifest.config), as: Configuration.self)
            #expect(configuration.config.Entrypoint == ["/usr/bin/twilld"])
            #expect(configuration.created == "2023-11-14T22:13:20Z")
            let commit = try execute("git -C '\(Self.root)' rev-parse HEAD").trimmingLine
            #expect(configuration.config.Labels["org.opencontainers.image.revision"] == commit)
            #expect(manifest.annotations["org.opencontainers.image.revision"] == commit)
            try Self.judgeContents(of: place)
        }
    }

    /// Nothing else than the two programs, what they run and link, and licences; all of it in the bill of materials.
    private static func judgeContents(of place: String) throws {
        try execute(
            "mkdir \(place)/root && cd \(place)/out/layout/blobs/sha256 && for f in *; do "
                + "gzip -t $f 2>/dev/null || continue; "
                + "tar -tvzf $f >>\(place)/listing; tar -xzf $f -C \(place)/root; done"
        )
        // Owners and times are fixed, and no program gets another's rights.
        let listing = try execute("cat \(place)/listing").split(separator: "\n")
        for line in listing {
            #expect(line.contains(" 0/0 ") && line.contains(" 1970-01-01 00:00"), "\(line)")
            #expect(!line.prefix(10).contains("s"), "\(line)")
        }
        let found = try execute("cd \(place)/root && find . -type f | LC_ALL=C sort")
        let files = found.split(separator: "\n").map(String.init)
        let programs =
            ["usr/bin/twilld", "usr/bin/twill-cni", "usr/sbin/nft"]
            + ["nft", "legacy"].map { "usr/sbin/xtables-\($0)-multi" }
        let libraries = #/^\./(usr/)?lib(64)?/.*\.so[.0-9]*$/#,
            licences = #/^\./usr/share/(common-)?licenses/#
        for file in files where !file.contains(libraries) && !file.contains(licences) {
            #expect(programs.contains(String(file.dropFirst(2))), "\(file)")
        }
        let materials = try Self.decode("\(place)/out/twill.spdx.json", as: Materials.self)
        #expect(materials.files.map(\.fileName).sorted() == files.sorted())

        // Each component is named, and has its licence in the image. Everything that is linked is found there.
        let names = materials.packages.map(\.name)
        for name in [
            "twill", "swift-runtime", "swift-nio", "swift-log", "libc6", "nftables", "iptables",
        ] {
            #expect(names.contains { $0.split(separator: ":").first ?? "" == name }, "\(name)")
        }
        #expect(!names.contains("swift-crypto"), "it is not linked")
        for package in materials.packages {
            let licences = "\(place)/root/usr/share/licenses/\(package.name.split(separator: ":")[0])"
            #expect(try execute("ls \(licences)").isEmpty == false, "\(package.name)")
            #expect(package.versionInfo.isEmpty == false)
        }
        for program in ["usr/bin/twilld", "usr/sbin/nft", "usr/sbin/iptables-save"] {
            let missing = try execute(
                "chroot \(place)/root /lib64/ld-linux-x86-64.so.2 --list /\(program)")
            #expect(!missing.contains("not found"), "\(program): \(missing)")
        }
    }

    @Test func aProgramThatIsNotThereIsNamed() throws {
        try Self.withPrograms { place in
            try execute("rm \(place)/twill-cni")
            #expect { _ = try Self.build(in: place, out: "out") } throws: {
                "\($0)".contains("there is no \(place)/twill-cni")
            }
        }
    }
}

extension String {
    fileprivate var trimmingLine: String { String(self.split(whereSeparator: \.isNewline).first ?? "") }
}
