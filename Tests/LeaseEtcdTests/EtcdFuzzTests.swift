import EtcdAPI
import Foundation
import Fuzz
import Leases
import Testing

@testable import LeaseEtcd

/// What etcd answers, as protobuf has it: decoded or refused, and no number in it traps.
private final class EtcdAnswerTarget: FuzzTarget {
    let maximumBytes = 2048
    let words: [[UInt8]] = [
        Array("/coreos.com/network/subnets/".utf8), Array("/coreos.com/network/config".utf8),
        Array("10.66.28.0-24".utf8),
        [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1],
        [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1],
    ]
    private let store: EtcdStore

    init() throws {
        store = try EtcdStore(configuration: EtcdConfiguration(endpoints: ["http://127.0.0.1:1"]))
    }

    var seeds: [[UInt8]] {
        let pairs = ["subnets/10.66.28.0-24", "config", "subnets/10.12.13.0-24&fd00:12:13::-56"].map { key in
            Etcdserverpb_KeyValue.with {
                $0.key = Data("/coreos.com/network/\(key)".utf8)
                $0.value = Data(#"{"PublicIP":"198.18.9.2","PublicIPv6":null}"#.utf8)
                $0.modRevision = 7
                $0.lease = 0x7477_0000_0007_1234
            }
        }
        return pairs.compactMap { try? Array($0.serializedBytes() as [UInt8]) }
    }

    func run(_ bytes: [UInt8]) throws(FuzzFailure) {
        guard let pair = try? Etcdserverpb_KeyValue(serializedBytes: bytes) else { return }
        if case .put(let entry)? = store.event(put: pair) {
            try hold(
                String(decoding: pair.key, as: UTF8.self).hasSuffix(entry.key),
                "\(entry.key) was made of another key")
        }
        _ = store.event(deletionOf: pair.key)
    }
}

@Suite struct EtcdFuzzTests {
    @Test func answers() throws {
        let target = try EtcdAnswerTarget()
        let driver = FuzzDriver([NamedFuzzTarget("etcd-answer") { target }], seed: 1)
        print(table(of: try driver.run(seconds: 1)))
    }
}
