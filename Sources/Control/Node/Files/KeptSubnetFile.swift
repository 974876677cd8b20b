import Glibc
import Health
import Host
import Netlink
import Reconciler
import Synchronization

/// `subnet.env` is there and says what it shall. Looked at with every change on this machine's network and by every
/// resync: one small file is read. The file stays for the next start, which asks for its subnet.
public final class KeptSubnetFile: KeptItem {
    private struct State {
        /// Whether it has been in place once since the start.
        var wasInPlace = false
        /// Whether it was at the last look.
        var isInPlace = false
        /// Why it could not be written last.
        var failure: SubnetFileError?
    }

    private let file: SubnetFile
    private let path: String
    private let state: Mutex<State>

    /// Keeps `file` at `path`; `wasInPlace`: a file of this daemon's was there before.
    public init(_ file: SubnetFile, at path: String, wasInPlace: Bool = false) {
        self.file = file
        self.path = path
        state = Mutex(State(wasInPlace: wasInPlace))
    }

    /// `file /run/flannel/subnet.env`.
    public var name: String { "file \(path)" }

    /// The file.
    public var component: Component { Component(.subnetFile) }

    /// The overlay works without it: only new pods need it.
    public var isEssential: Bool { false }

    /// A node whose file was never written takes no pods; later the pods that run go on.
    public var effect: Problem.Effect { state.withLock { $0.wasInPlace } ? .degraded : .cutOff }

    /// Why it could not be written, the last time that this was tried; nil where it could.
    public var failure: SubnetFileError? { state.withLock { $0.failure } }

    /// Whether it is there as it shall be, as of the last look.
    var isInPlace: Bool { state.withLock { $0.isInPlace } }

    /// Says whether it is missing or has other contents.
    public func deviation(in _: NetworkState) -> String? {
        let present: String?
        do throws(SystemError) {
            present = try TextFile.read(path)
        } catch {
            state.withLock { $0.isInPlace = false }
            return error.cause
        }
        if present == file.text {
            state.withLock { $0 = State(wasInPlace: true, isInPlace: true) }
            return nil
        }
        state.withLock { $0.isInPlace = false }
        return present == nil ? "missing" : "changed by somebody"
    }

    /// Writes it.
    ///
    /// - Throws: `SubnetFileError` where it cannot be written.
    public func update(in _: NetworkState, using _: RouteSocket) throws {
        do throws(SubnetFileError) {
            try file.write(to: path)
            state.withLock { $0 = State(wasInPlace: true, isInPlace: true) }
        } catch {
            state.withLock {
                $0.failure = error
                $0.isInPlace = false
            }
            throw ItemProblem(
                Problem(
                    effect, "\(error.cause); without it new pods and containers get no network",
                    remedy: "make room or make it writable; it is tried again every few seconds"))
        }
    }
}
