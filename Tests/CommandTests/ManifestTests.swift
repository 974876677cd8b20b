import FoundationEssentials
import Glibc
import Leases
import NetworkNamespaces
import NodeDaemon
import Testing

@testable import twilld

/// `deploy/twill.yaml`, held against its chart and against the program; the API server's own judgement of it is in
/// `tools/test-kubernetes`.
@Suite struct ManifestTests {
    private static let root = String(#filePath.dropLast("/Tests/CommandTests/ManifestTests.swift".count))

    /// What of a Kubernetes object these tests look at.
    private struct Object: Decodable {
        struct Metadata: Decodable {
            var name: String
            var namespace: String?
        }
        struct Rule: Decodable, Equatable {
            var apiGroups: [String]
            var resources: [String]
            var verbs: [String]
        }
        struct Subject: Decodable {
            var name: String
            var namespace: String?
        }
        struct Specification: Decodable { var template: Template }
        struct Template: Decodable { var spec: Pod }

        var kind: String
        var metadata: Metadata
        var rules: [Rule]?
        var subjects: [Subject]?
        var data: [String: String]?
        var spec: Specification?
    }

    private struct Pod: Decodable {
        struct Volume: Decodable {
            struct HostPath: Decodable {
                var path: String
                var type: String
            }
            struct ConfigMap: Decodable { var name: String }
            var name: String
            var hostPath: HostPath?
            var configMap: ConfigMap?
        }
        var serviceAccountName: String
        var hostNetwork: Bool
        var priorityClassName: String
        var initContainers: [Container]
        var containers: [Container]
        var volumes: [Volume]
    }

    private struct Container: Decodable {
        struct Mount: Decodable {
            var name: String
            var mountPath: String
        }
        struct Probe: Decodable {
            struct Request: Decodable {
                var host: String
                var path: String
                var port: Int
            }
            var httpGet: Request
        }
        struct Security: Decodable {
            struct Capabilities: Decodable {
                var add: [String]?
                var drop: [String]
            }
            var privileged: Bool?
            var readOnlyRootFilesystem: Bool
            var capabilities: Capabilities
        }
        struct Resources: Decodable {
            var requests: [String: String]
            var limits: [String: String]?
        }
        var name: String
        var image: String
        var command: [String]
        var args: [String]?
        var volumeMounts: [Mount]
        var livenessProbe: Probe?
        var readinessProbe: Probe?
        var securityContext: Security
        var resources: Resources?
    }

    private static func manifest() throws -> [Object] {
        let program =
            "import json,sys,yaml; print(json.dumps([d for d in yaml.safe_load_all(open(sys.argv[1])) if d]))"
        let json = try execute("/usr/bin/python3 -c '\(program)' \(root)/deploy/twill.yaml")
        return try JSONDecoder().decode([Object].self, from: Data(json.utf8))
    }

    private static func pod() throws -> Pod {
        try #require(try manifest().first { $0.kind == "DaemonSet" }?.spec).template.spec
    }

    private static func daemon() throws -> Container {
        try #require(try pod().containers.first { $0.name == "twilld" })
    }

    /// The manifest is what the chart renders to, so that neither is ahead of the other.
    @Test func theManifestIsTheChartRendered() throws {
        guard !(try execute("command -v go || true")).isEmpty else {
            #expect(getenv("TWILL_CI") == nil, "go is missing: tools/setup")
            return
        }
        let rendered = try execute("'\(Self.root)/tools/render-chart'")
        let manifest = try String(contentsOfFile: "\(Self.root)/deploy/twill.yaml", encoding: .utf8)
        #expect(rendered == manifest, "tools/render-chart >deploy/twill.yaml was not run")
    }

    /// Each value of the chart changes something.
    @Test func everyValueOfTheChartIsUsed() throws {
        let values = try String(contentsOfFile: "\(Self.root)/deploy/chart/values.yaml", encoding: .utf8)
        let template = try String(
            contentsOfFile: "\(Self.root)/deploy/chart/templates/twill.yaml", encoding: .utf8)
        let names = values.matches(of: #/(?m)^([A-Za-z]+):/#).map { String($0.1) }
        #expect(names.count >= 10)
        for name in names { #expect(template.contains(".Values.\(name)"), "\(name)") }
    }

    /// The daemon's command line is one: every flag is known and every value is one that it takes.
    @Test func theDaemonsFlagsExist() throws {
        let container = try Self.daemon()
        #expect(container.command == ["/usr/bin/twilld", "run"])
        let words = try CommandLineWords(
            container.command.dropFirst() + (container.args ?? []), environment: [:]
        ) { path throws(ExitFailure) in throw ExitFailure(.configuration, "no \(path)") }
        let run = try #require(try Twilld.parseAsRoot(words.words) as? Run)
        #expect(container.args?.contains("--kube-subnet-mgr") == true)
        #expect(run.rules.ipMasq)
    }

    @Test func theProbesAskWhereTheDaemonAnswers() throws {
        let container = try Self.daemon()
        let probes = [container.livenessProbe, container.readinessProbe].compactMap { $0?.httpGet }
        #expect(probes.map(\.path) == ["/healthz", "/readyz"])
        for probe in probes {
            #expect(probe.host == "127.0.0.1")
            #expect(container.args?.contains("--healthz-port=\(probe.port)") == true)
            #expect(container.args?.contains("--healthz-ip=\(probe.host)") == true)
        }
    }

    /// Nothing more than is needed: no write but of the node's status, no secret, no wildcard.
    @Test func theAccountMayReadNodesAndPatchTheirStatus() throws {
        let objects = try Self.manifest()
        let role = try #require(objects.first { $0.kind == "ClusterRole" })
        #expect(
            role.rules == [
                .init(apiGroups: [""], resources: ["nodes"], verbs: ["get", "list", "watch"]),
                .init(apiGroups: [""], resources: ["nodes/status"], verbs: ["patch"]),
            ])
        let account = try #require(objects.first { $0.kind == "ServiceAccount" }?.metadata)
        let subject = try #require(objects.first { $0.kind == "ClusterRoleBinding" }?.subjects?.first)
        #expect(subject.name == account.name && subject.namespace == account.namespace)
        #expect(try Self.pod().serviceAccountName == account.name)
    }

    @Test func everyContainerHasTheRightsThatItNeedsAlone() throws {
        let pod = try Self.pod()
        for container in pod.containers + pod.initContainers {
            #expect(container.securityContext.privileged != true, "\(container.name)")
            #expect(container.securityContext.readOnlyRootFilesystem, "\(container.name)")
            #expect(container.securityContext.capabilities.drop == ["ALL"], "\(container.name)")
        }
        let daemon = try Self.daemon()
        #expect(daemon.securityContext.capabilities.add == ["NET_ADMIN"])
        #expect(pod.initContainers.allSatisfy { $0.securityContext.capabilities.add == nil })
        // What carries a node's packets is neither throttled nor killed for a burst, nor evicted.
        #expect(daemon.resources?.limits == nil && daemon.resources?.requests.isEmpty == false)
        #expect(pod.priorityClassName == "system-node-critical" && pod.hostNetwork)
    }

    @Test func everyMountIsOfAVolumeAndEveryVolumeIsMounted() throws {
        let pod = try Self.pod()
        let mounts = (pod.containers + pod.initContainers).flatMap(\.volumeMounts)
        #expect(Set(mounts.map(\.name)) == Set(pod.volumes.map(\.name)))
        // What the daemon and the plugin agree upon by their paths is the same on the node and in the container.
        for volume in pod.volumes {
            guard let path = volume.hostPath?.path else { continue }
            for mount in mounts where mount.name == volume.name {
                #expect(mount.mountPath == path, "\(volume.name)")
            }
        }
        let device = try #require(pod.volumes.first { $0.hostPath?.path == "/dev/net/tun" }?.hostPath)
        #expect(device.type == "CharDevice")
    }

    /// What the containers run is in the image, which has the name that the manifest gives.
    @Test func theImageHasWhatTheContainersRun() throws {
        let builder = try String(contentsOfFile: "\(Self.root)/tools/image", encoding: .utf8)
        let pod = try Self.pod()
        for container in pod.containers + pod.initContainers {
            let program = try #require(container.command.first)
            #expect(builder.contains("\"\(program.dropFirst())\": options."), "\(program)")
            #expect(container.image == "localhost/twill:\(Version.text)")
        }
        let chart = try String(contentsOfFile: "\(Self.root)/deploy/chart/Chart.yaml", encoding: .utf8)
        #expect(chart.contains("\nappVersion: \(Version.text)\n"))
    }

    @Test func theConfigurationIsOne() throws {
        let objects = try Self.manifest()
        let map = try #require(objects.first { $0.kind == "ConfigMap" })
        let data = try #require(map.data)
        let mounted = try Self.pod().volumes.compactMap { $0.configMap?.name }
        #expect(mounted == [map.metadata.name])
        _ = try NetworkConfiguration(parsing: try #require(data["net-conf.json"]))
        #expect(try NetworkConfiguration.remarks(on: try #require(data["net-conf.json"])).isEmpty)
        struct List: Decodable {
            struct Plugin: Decodable { var type: String }
            var name: String
            var cniVersion: String
            var plugins: [Plugin]
        }
        let list = try JSONDecoder().decode(List.self, from: Data(try #require(data["cni-conf.json"]).utf8))
        #expect(list.plugins.map(\.type) == ["flannel", "portmap"])
        #expect(list.name == "cbr0", "addresses that flannel's pods hold are noted under its name")
    }
}
