import Glibc
import JSON

// STATUS and GC: the network of this node.
extension Plugin {
    /// Whether an ADD would succeed: `subnet.env` stands, the daemon is there, and the delegate too, if it says so.
    ///
    /// No socket is no fault: `subnet.env` may be another daemon's. Why the kernel's answer is enough: ADR 84.
    func status() throws(Refusal) {
        let made = try own { () throws(CNIError) in
            let subnets = try NodeSubnets(path: configuration.subnetFile, failingWith: .notAvailable)
            if DaemonSocket.ask(configuration.statusSocket) == .deserted {
                throw CNIError(
                    .notAvailable, "the daemon does not answer at \(configuration.statusSocket)",
                    details: "check the twill pod of this node")
            }
            return try DelegateConfiguration(configuration, subnets: subnets)
        }
        let delegate: Delegate
        do throws(CNIError) {
            delegate = try Delegate(made.type, in: invocation.directories)
        } catch {
            throw .own(CNIError(.notAvailable, error.message, details: error.details))
        }
        guard try delegate.speaks(configuration.version, environment: invocation.environment) else {
            throw .own(
                CNIError(
                    .notAvailable, "the plugin \(made.type) does not speak CNI \(configuration.version)",
                    details:
                        "write a lower cniVersion into the network's configuration, or install newer plugins")
            )
        }
        _ = try delegate.call(made.json, environment: invocation.environment)
    }

    /// Takes away what is left of attachments that are gone: what was kept for their DEL, and addresses that nobody
    /// holds.
    ///
    /// What was made since the call began is of an ADD that the runtime had not heard of.
    ///
    /// - Throws: the first failure, after all the rest was tried.
    func collect() throws(Refusal) {
        guard let valid = configuration.validAttachments else {
            throw .own(
                CNIError(
                    .configuration, "the configuration has no cni.dev/valid-attachments, which GC needs",
                    details: "without them everything would be taken away"))
        }
        let current = rebuilt
        let addresses = current.addressDirectory.map { HostLocalAddresses(directory: $0) }
        let reservations = addresses?.reservations(before: start) ?? []
        var failure: Refusal?
        for orphan in orphans(valid: Set(valid), reservations: reservations) {
            do throws(Refusal) {
                let made = orphan.known ?? current
                _ = try delegate(made).call(
                    made.json, environment: environment(.delete, of: orphan.attachment))
                if orphan.hasFile { kept.forget(orphan.attachment.container) }
            } catch {
                failure = failure ?? error
            }
        }
        addresses?.free(reservations.filter { $0.container == nil })
        do throws(Refusal) { try forward(current, valid: valid) } catch { failure = failure ?? error }
        if let failure { throw failure }
    }

    /// An attachment that something is left of and that is not valid.
    private struct Orphan {
        var attachment: Attachment
        /// What its ADD gave to the delegate.
        var known: DelegateConfiguration?
        /// Whether a file of this network was kept for it, be it broken.
        var hasFile = false
    }

    private func orphans(
        valid: Set<Attachment>, reservations: [HostLocalAddresses.Reservation]
    ) -> [Orphan] {
        let validContainers = Set(valid.map(\.container))
        var orphans: [Attachment: Orphan] = [:]
        for reservation in reservations {
            guard let container = reservation.container,
                reservation.interface != nil || !validContainers.contains(container)
            else { continue }
            let attachment = Attachment(container: container, interface: reservation.interface ?? "eth0")
            if !valid.contains(attachment) { orphans[attachment] = Orphan(attachment: attachment) }
        }
        for container in kept.containers(before: start) where !validContainers.contains(container) {
            var known: DelegateConfiguration?
            switch kept.configuration(for: container) {
            case .whole(let found):
                // Another network may keep its own in the same directory.
                guard found.network == configuration.name else { continue }
                known = found
            case .broken: break
            case .none: continue
            }
            if !orphans.keys.contains(where: { $0.container == container }) {
                let attachment = Attachment(container: container, interface: "eth0")
                orphans[attachment] = Orphan(attachment: attachment)
            }
            for attachment in orphans.keys where attachment.container == container {
                orphans[attachment] = Orphan(attachment: attachment, known: known, hasFile: true)
            }
        }
        return orphans.values.sorted {
            ($0.attachment.container, $0.attachment.interface)
                < ($1.attachment.container, $1.attachment.interface)
        }
    }

    /// The delegate may have a GC of its own, from the version on that has it.
    private func forward(_ current: DelegateConfiguration, valid: [Attachment]) throws(Refusal) {
        let delegate = try delegate(current)
        guard try delegate.speaks(configuration.version, environment: invocation.environment) else { return }
        let attachments = valid.map {
            JSONValue.object([]).setting("containerID", to: .string($0.container))
                .setting("ifname", to: .string($0.interface))
        }
        _ = try delegate.call(
            current.json(with: [("cni.dev/valid-attachments", .array(attachments))]),
            environment: invocation.environment)
    }
}
