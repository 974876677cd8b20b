import Glibc
import Leases
import Node
import Worker

extension ExitFailure {
    /// What an error of any kind means for the exit status, in an operator's words.
    package init(_ error: any Error) {
        switch error {
        case let error as ExitFailure: self = error
        case let error as LeaseStoreError: self.init(error)
        case let error as DataPlaneError: self.init(error)
        case let error as LeaseLost: self.init(.temporary, error.description)
        case let error as UnderlayError:
            self.init(error.isTransient ? .temporary : .configuration, error.description)
        case let error as TunnelMTUError: self.init(.configuration, error.description)
        case let error as SubnetFileError: self.init(.configuration, error.description)
        default: self.init(.system, plainWords(error))
        }
    }

    /// What a store's refusal means for the exit status.
    package init(_ error: LeaseStoreError) {
        let status: ExitStatus =
            switch error.kind {
            case .unreachable: .temporary
            case .denied: .configuration
            case .historyLost, .failed: .system
            }
        self.init(status, error.description)
    }
}

extension ExitFailure {
    /// What a data plane's failure means for the exit status.
    init(_ error: DataPlaneError) {
        let number: Int32 =
            switch error {
            case .tunnel(let error): error.errorNumber
            case .socket(let error): error.errorNumber
            case .tuning: EINVAL
            case .engine(_, let errorNumber), .resource(_, let errorNumber),
                .unsteerable(let errorNumber):
                errorNumber
            }
        let status: ExitStatus =
            switch number {
            case EPERM, EACCES: .permission
            case EADDRINUSE, EADDRNOTAVAIL, EBUSY, ENOMEM, EAGAIN, EMFILE, ENFILE, ENOBUFS: .temporary
            case EINVAL: .configuration
            default: .system
            }
        // The one tuning error that a start can still meet: the tunnel's MTU is not known before.
        if case .tuning(.lessThanMTU(let receiveBufferBytes, let mtu)) = error {
            self.init(
                status,
                "--receive-buffer-size \(receiveBufferBytes) is less than the tunnel's MTU of \(mtu) bytes: raise it"
            )
        } else {
            self.init(status, error.description)
        }
    }
}
