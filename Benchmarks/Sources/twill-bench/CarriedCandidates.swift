/// Candidates that differ in what carries them or in what they carry, between two nodes.
extension Candidate {
    /// What a wider underlay brings, of 9,000 bytes for the candidate's turn alone: twill, and VXLAN beside it.
    ///
    /// - Parameter mtu: the underlay's otherwise, bytes.
    static func jumbo(program: String, flags: [String], mtu: Int) -> [Candidate] {
        func underlayMTU(_ bytes: Int) -> [String] { ["ip", "link", "set", "eth0", "mtu", "\(bytes)"] }
        // VXLAN's headers take 50 bytes.
        func vxlanMTU(_ bytes: Int) -> [String] { ["ip", "link", "set", "vxlan0", "mtu", "\(bytes - 50)"] }
        var twill = twill(name: "twill-mtu-9000", program: program, flags: flags)
        twill.prepare = (twill.prepare ?? []) + [underlayMTU(9000)]
        twill.finish = [underlayMTU(mtu)]
        twill.underlays = [.plain, .offload]
        var vxlan = vxlan
        vxlan.name = "vxlan-mtu-9000"
        vxlan.prepare = [underlayMTU(9000), vxlanMTU(9000)]
        vxlan.finish = [vxlanMTU(mtu), underlayMTU(mtu)]
        // A program on the way of each frame takes none that is larger than a page.
        vxlan.underlays = [.plain, .offload]
        return [vxlan, twill]
    }

    /// Kernel VXLAN between pods, carried by twill: what an overlay on top of the overlay is left with.
    static func nested(program: String, flags: [String]) -> Candidate {
        var candidate = twill(name: "vxlan-in-twill", program: program, flags: flags)
        // Each daemon writes where it is into a file that both nodes can read.
        let configure = #"""
            for attempt in $(seq 100); do
                test -s {dir}/subnet-{node}.env && test -s {dir}/subnet-{peer}.env && break
                sleep 0.1
            done
            address() { sed -n 's/^FLANNEL_SUBNET=\(.*\)\.1\/.*/\1.0/p' {dir}/subnet-$1.env; }
            mtu=$(($(cat /sys/class/net/{device}/mtu) - 50))
            ip link add nested0 mtu $mtu type vxlan id 2 local $(address {node}) remote $(address {peer}) \
                dev {device} dstport 4789
            ip address add 100.98.0.{node}/24 dev nested0
            ip link set nested0 up
            """#
        candidate.configure = [["sh", "-ec", configure]]
        // It goes with the device below it, where that goes with its daemon.
        candidate.finish = [["sh", "-c", "ip link del nested0 2>/dev/null || true"]]
        candidate.address = "100.98.0.{node}"
        return candidate
    }
}
