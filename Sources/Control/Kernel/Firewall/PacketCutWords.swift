import Health

/// The words for rules that drop what pods need: which rule, what it drops, and what to do about it with the program
/// that set it.
struct PacketCutWords {
    private let surroundings: PacketFilterEffects.Surroundings

    init(_ surroundings: PacketFilterEffects.Surroundings) { self.surroundings = surroundings }

    /// The problem that two ways have, `first` being one of them.
    func problem(out: PacketCut?, into: PacketCut?, first: PacketCut) -> Problem {
        let cuts = [out, into].compactMap(\.self)
        let isCutOff =
            cuts.contains(where: \.isTotal) || (cuts.count == 2 && cuts.allSatisfy(\.isOfBeginnings))
        let isOneRule =
            cuts.count == 2 && cuts.allSatisfy { $0.drop == first.drop && $0.peers == first.peers }
        let sentences = isOneRule ? [sentence(cuts)] : cuts.map { sentence([$0]) }
        return Problem(
            isCutOff ? .cutOff : .degraded, sentences.joined(separator: "; "), remedy: remedy(for: first))
    }

    private func sentence(_ cuts: [PacketCut]) -> String {
        guard let cut = cuts.first else { return "" }
        let drop = cut.drop
        let place =
            drop.chain == drop.baseChain
            ? "chain \(drop.chain)" : "chain \(drop.chain) (called from \(drop.baseChain))"
        let verb = drop.isCertain ? "drops" : "probably drops"
        let what = cuts.map { words(for: $0) }.joined(separator: " and ")
        let rule = drop.rule.map { "the rule \"\($0)\"" } ?? "its policy"
        return "\(drop.table), \(place): \(rule) \(verb) \(what)"
    }

    private func words(for cut: PacketCut) -> String {
        let isOfPods = cut.way == .podsOut || cut.way == .podsIn
        let isWhole = !isOfPods || cut.transports.count == SamplePacket.TransportProtocol.allCases.count
        let transports =
            isWhole
            ? ""
            : cut.transports.map { $0.name(surroundings.network.addressFamily) }.sorted().joined(
                separator: ", ") + " of "
        let peers = cut.peers.map { isOfPods ? "\($0.subnet)" : "\($0.address)" }.sorted()
        let listed =
            peers.prefix(3).joined(separator: ", ") + (peers.count > 3 ? " and \(peers.count &- 3) more" : "")
        let what: String =
            switch cut.way {
            case .podsOut: "what pods here send to \(peers.isEmpty ? "other nodes' pods" : listed)"
            case .podsIn: "what \(peers.isEmpty ? "other nodes' pods" : listed) send to pods here"
            case .tunnelIn:
                "tunnel datagrams (UDP port \(surroundings.port)) from \(peers.isEmpty ? "the other nodes" : listed)"
            case .tunnelOut: "tunnel datagrams to \(peers.isEmpty ? "the other nodes" : listed)"
            }
        return transports + what + (cut.hitsEstablished ? "" : ", but for answers")
    }

    /// What to do, in the words of whoever set the rule.
    private func remedy(for cut: PacketCut) -> String {
        let isOfPods = cut.way == .podsOut || cut.way == .podsIn
        let network = surroundings.network
        let tunnel = surroundings.tunnel
        let port = surroundings.port
        if cut.drop.owner == "firewalld" {
            return isOfPods
                ? "run: firewall-cmd --permanent --zone=trusted --add-interface=\(tunnel) --add-source=\(network) && firewall-cmd --reload"
                : "run: firewall-cmd --permanent --add-port=\(port)/udp && firewall-cmd --reload"
        }
        if cut.drop.owner == "ufw" {
            return isOfPods
                ? "run: ufw route allow in on \(tunnel) && ufw route allow out on \(tunnel)"
                : "run: ufw allow \(port)/udp"
        }
        let accepted =
            isOfPods
            ? "packets from and to \(network)"
            : "UDP port \(port) between this node and the others"
        guard case .iptables(let program) = cut.drop.language else {
            return "take the rule away, or accept \(accepted) before it in that chain"
        }
        let table = cut.drop.table.split(separator: " ").last ?? "filter"
        let match: String =
            switch cut.way {
            case .podsOut, .podsIn: "-s \(network)"
            case .tunnelIn: "-p udp --dport \(port)"
            case .tunnelOut: "-p udp --sport \(port)"
            }
        let second = isOfPods ? ", and the same with -d" : ""
        return
            "accept \(accepted) before it (\(program) -t \(table) -I \(cut.drop.baseChain) \(match) -j ACCEPT\(second)), or take it away"
    }
}
