import ArgumentParser

extension Run {
    /// What `--only` names, or else what one would usually look at and whatever else is installed.
    func chosenCandidates() throws -> [Candidate] {
        let flags = twilldFlags.split(separator: " ").map(String.init)
        let twill = Candidate.twill(name: "twill", program: twilld, flags: flags)
        let asked = try variants.map { variant in
            let parts = variant.split(separator: "=", maxSplits: 1)
            guard parts.count == 2 else { throw ValidationError("--variant \(variant): NAME=FLAGS") }
            var more = parts[1].split(separator: " ").map(String.init)
            // A flag begins with a hyphen: what does not is another twilld.
            let other = more.first.flatMap { $0.hasPrefix("-") ? nil : $0 }
            if other != nil { more.removeFirst() }
            return Candidate.twill(name: String(parts[0]), program: other ?? twilld, flags: flags + more)
        }
        let forwarders: [Candidate] = [
            .baseline(name: "baseline", batch: 1, mtu: mtu, nodes: nodes),
            .baseline(name: "mmsg-baseline", batch: 64, mtu: mtu, nodes: nodes),
        ]
        let jumbo = Candidate.jumbo(program: twilld, flags: flags, mtu: mtu)
        let ring = Candidate.withoutKernelPath(program: twilld, flags: flags)
        let carried = jumbo + [Candidate.nested(program: twilld, flags: flags)]
        let files = try candidateFiles.map { try Candidate(path: $0) }
        let shipped = try Candidate.shipped()
        let installed = shipped.filter(\.missingPackages.isEmpty)
        guard let only else {
            // Pods are in the subnets of an overlay whose nodes have one each.
            if pods { return [.vxlan, twill, ring] + asked + forwarders + files }
            let more = quick ? [] : (nodes == 2 ? carried : []) + installed
            return [.veth, .vxlan, twill, ring] + asked + forwarders + more + files
        }
        let engines = Candidate.engines(program: twilld, flags: flags)
        let offloads = Candidate.offloads(program: twilld, flags: flags)
        let workers = Candidate.workers(program: twilld, flags: flags)
        let scale = Candidate.scale(mtu: mtu)
        let all =
            [.veth, .vxlan, twill, ring] + asked + engines + offloads + workers + scale + forwarders
            + Candidate.floors(mtu: mtu) + carried + shipped + files
        let groups = [
            "all": [.veth, .vxlan, twill, ring] + asked + engines + offloads + forwarders + installed + files,
            "engines": engines, "offloads": offloads, "workers": workers, "scale": scale, "mtu-9000": jumbo,
        ]
        let chosen = try only.flatMap { name in
            if let group = groups[name] { return group }
            guard let candidate = all.first(where: { $0.name == name }) else {
                let names = (all.map(\.name) + groups.keys.sorted()).joined(separator: ", ")
                throw ValidationError("no candidate \"\(name)\"; there are: \(names)")
            }
            guard candidate.missingPackages.isEmpty else {
                let packages = candidate.missingPackages.joined(separator: " ")
                throw ValidationError("\(name) is not installed: apt-get install \(packages)")
            }
            return [candidate]
        }
        // More nodes are joined by a bridge, whose MTU stays.
        if nodes > 2,
            let wide = chosen.first(where: { candidate in jumbo.contains { $0.name == candidate.name } })
        {
            throw ValidationError("\(wide.name) takes two nodes")
        }
        return chosen
    }
}
