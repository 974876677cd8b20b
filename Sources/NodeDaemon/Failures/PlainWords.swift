import FoundationEssentials
import Glibc
import Health
import NIOCore
import NIOPosix

/// An error in an operator's words: the system's own for its error numbers, ours for ours, and no name of a
/// Swift type.
package func plainWords(_ error: any Error) -> String {
    if let number = errorNumber(of: error) { return systemWords(number) }
    return switch error {
    case is CancellationError: "it was stopped"
    case is DecodingError: "it is not of the form that was expected"
    case let error as NIOConnectionError where error.connectionErrors.isEmpty: "\(error.host) has no address"
    case let error as SocketAddressError.UnknownHost:
        "there is no address for \"\(error.host)\" (\(error.errorDescription))".printable
    case let error as SocketAddressError:
        switch error {
        case .unixDomainSocketPathTooLong: "the path is too long for a unix socket (107 bytes)"
        case .failedToParseIPString(let text): "\"\(text)\" is no address"
        default: "the address can't be used"
        }
    case is ChannelError: "the connection was closed"
    case let error as CocoaError: cocoaWords(error)
    // What is ours describes itself.
    case let error as any CustomStringConvertible: "\(error)".printable
    default: "\(error)".printable
    }
}

/// What the C library says of an error number.
package func systemWords(_ number: Int32) -> String { String(cString: strerror(number)) }

/// The kernel's error number behind an error of Swift's libraries; nil where there is none.
private func errorNumber(of error: any Error) -> Int32? {
    switch error {
    case let error as IOError: error.errnoCode
    case let error as POSIXError: error.code.rawValue
    case let error as NIOConnectionError:
        error.connectionErrors.lazy.compactMap { errorNumber(of: $0.error) }.first
    case let error as CocoaError:
        (error.userInfo["NSUnderlyingError"] as? any Error).flatMap(errorNumber(of:))
    default: nil
    }
}

/// What Foundation's own codes mean, where it keeps the kernel's to itself.
private func cocoaWords(_ error: CocoaError) -> String {
    switch error.code {
    case .fileNoSuchFile, .fileReadNoSuchFile: systemWords(ENOENT)
    case .fileReadNoPermission, .fileWriteNoPermission: systemWords(EACCES)
    case .fileWriteFileExists: systemWords(EEXIST)
    case .fileWriteOutOfSpace: systemWords(ENOSPC)
    case .fileWriteVolumeReadOnly: systemWords(EROFS)
    case .fileReadTooLarge: systemWords(EFBIG)
    case .fileReadInapplicableStringEncoding, .fileReadCorruptFile: "it is no UTF-8 text"
    default: "the system refused it (code \(error.code.rawValue))"
    }
}
