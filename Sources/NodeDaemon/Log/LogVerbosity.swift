import Glibc
import Logging

/// How much is logged: of everything (`-v`), and more of what is logged in some modules or files (`--vmodule`).
package struct LogVerbosity: Sendable, Equatable {
    /// More of what is logged in some places.
    package struct Place: Sendable, Equatable {
        /// A shell pattern of a module's or a file's name, without `.swift`; upper and lower case are the same.
        package var pattern: String
        /// The least level that is logged there.
        package var level: Logger.Level

        /// Makes a place.
        package init(_ pattern: String, _ level: Logger.Level) {
            self.pattern = pattern
            self.level = level
        }

        /// - Parameter file: as `#fileID` has it, `Leases/LeaseKeeper.swift`.
        fileprivate func fits(file: String) -> Bool {
            let parts = file.split(separator: "/")
            let name = parts.last.map { $0.hasSuffix(".swift") ? $0.dropLast(6) : $0 }
            return [parts.first, name].contains { part in
                part.map { fnmatch(pattern.lowercased(), $0.lowercased(), 0) == 0 } ?? false
            }
        }
    }

    /// The least level that is logged everywhere.
    package var level: Logger.Level
    /// Where more is.
    package var places: [Place]

    /// Makes a verbosity.
    package init(_ level: Logger.Level = .info, places: [Place] = []) {
        self.level = level
        self.places = places
    }

    /// The least level that is logged anywhere.
    var least: Logger.Level { places.map(\.level).reduce(level, min) }

    /// Whether what is logged at a level in a file is written.
    func admits(_ level: Logger.Level, loggedIn file: String) -> Bool {
        level >= self.level || places.contains { level >= $0.level && $0.fits(file: file) }
    }
}
