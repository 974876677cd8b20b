/// Every parser that foreign bytes reach without an interface of the daemon's own; those of the command line, of HTTP and of
/// etcd's answers run on the same driver in `CommandTests` and `LeaseEtcdTests`.
public var fuzzTargets: [NamedFuzzTarget] {
    var targets = [
        NamedFuzzTarget("ip-packet") { PacketTarget() },
        NamedFuzzTarget("segment-plan") { SegmentPlanTarget() },
        NamedFuzzTarget("coalescer") { CoalescerTarget() },
        NamedFuzzTarget("addresses") { AddressTextTarget() },
        NamedFuzzTarget("lease-key") { LeaseKeyTarget() },
        NamedFuzzTarget("lease-value") { LeaseValueTarget() },
        NamedFuzzTarget("network-config") { ConfigurationTarget() },
        NamedFuzzTarget("subnet-env") { SubnetFileTarget() },
        NamedFuzzTarget("status") { StatusTarget() },
        NamedFuzzTarget("cni-input") { PluginInputTarget() },
        NamedFuzzTarget("cni-subnets") { PluginSubnetsTarget() },
        NamedFuzzTarget("kubernetes-stream") { KubernetesStreamTarget() },
        NamedFuzzTarget("kubeconfig") { KubeconfigTarget() },
    ]
    #if DEBUG || FUZZING
        targets += [
            NamedFuzzTarget("worker-outbound") { OutboundTarget() },
            NamedFuzzTarget("worker-inbound") { InboundTarget() },
            NamedFuzzTarget("netlink-reply") { NetlinkReplyTarget() },
            NamedFuzzTarget("netlink-request") { NetlinkRequestTarget() },
            NamedFuzzTarget("directory") { DirectoryTarget() },
            NamedFuzzTarget("iptables-rules") { IptablesRulesTarget() },
            NamedFuzzTarget("nft-rules") { NftablesRulesTarget() },
            NamedFuzzTarget("nft-generation") { RuleGenerationTarget() },
        ]
    #endif
    return targets
}
