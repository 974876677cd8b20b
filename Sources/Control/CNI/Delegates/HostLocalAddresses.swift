import Addresses
import Glibc
import Host

/// The addresses that `host-local` has given out on a network: a file for each, with the container's name and its
/// interface's in two lines, which stays over a reboot.
struct HostLocalAddresses {
    let directory: String

    /// A file of an address, and who has it. Old ones lack the interface; one that a machine which lost its power
    /// left empty says nothing, and nobody's DEL frees it.
    struct Reservation: Equatable {
        let address: String
        let container: String?
        let interface: String?
    }

    /// What was there before `moment`, by address.
    func reservations(before moment: timespec) -> [Reservation] {
        FileNames.all(in: directory).filter {
            IPAddress($0) != nil && FileNames.isPlain("\(directory)/\($0)", before: moment)
        }.compactMap { reservation($0) }
    }

    private func reservation(_ address: String) -> Reservation? {
        guard let text = (try? TextFile.read("\(directory)/\(address)")) ?? nil else { return nil }
        let lines = text.split(whereSeparator: \.isNewline).map { String($0.trimmingSpaces) }
        let container = lines.first.flatMap { Attachment.isContainer($0) ? $0 : nil }
        let interface = lines.dropFirst().first.flatMap { Attachment.isInterface($0) ? $0 : nil }
        return Reservation(address: address, container: container, interface: interface)
    }

    /// Frees addresses that say nobody's name, under `host-local`'s own lock: it writes the name after it has made
    /// the file.
    func free(_ nameless: [Reservation]) {
        guard !nameless.isEmpty else { return }
        let lock = open("\(directory)/lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard lock >= 0 else { return }
        defer { close(lock) }
        while flock(lock, LOCK_EX) != 0 { guard errno == EINTR else { return } }
        for one in nameless where reservation(one.address) == one { unlink("\(directory)/\(one.address)") }
    }
}
