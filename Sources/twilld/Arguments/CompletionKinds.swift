import ArgumentParser

extension CompletionKind {
    /// The network interfaces of this machine.
    static let interfaces = CompletionKind.shellCommand("ls /sys/class/net")

    /// The subnets that the running daemon knows: its own and its peers'. The store itself is not asked, as one that is
    /// away would hold up the shell.
    static let subnets = CompletionKind.shellCommand(
        #"twilld status --json 2>/dev/null | sed -n 's|.*"subnet" : "\(.*\)".*|\1|p'"#)
}
