import Glibc
import Testing

@testable import Host

@Suite struct TextFileTests {
    /// Calls `body` with a path in a directory that does not exist yet, and removes both afterwards.
    private func withPath(_ body: (String) throws -> Void) rethrows {
        let directory = "/tmp/twill-text-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
        let path = "\(directory)/file"
        defer {
            unlink(path)
            rmdir(directory)
        }
        try body(path)
    }

    @Test func whatIsWrittenIsRead() throws {
        try withPath { path in
            #expect(try TextFile.read(path) == nil)
            try TextFile.replace(path, with: "one\n", mode: 0o600)
            #expect(try TextFile.read(path) == "one\n")
            var status = stat()
            #expect(stat(path, &status) == 0 && status.st_mode & 0o777 == 0o600)
        }
    }

    @Test func whatCannotBeIsAnErrorWithItsPathAndNumber() throws {
        let missing = #expect(throws: SystemError.self) {
            _ = try TextFile.read("/proc/version/at/all")
        }
        #expect(missing?.description == "/proc/version/at/all: Not a directory")
        #expect(missing?.code == ENOTDIR)
        let odd = #expect(throws: SystemError.self) { _ = try TextFile.read("/dev/null") }
        #expect(odd?.description == "/dev/null: it is no plain file")
        let none = #expect(throws: SystemError.self) {
            try TextFile.replace("/proc/version/file", with: "", mode: 0o600)
        }
        #expect(none?.code == ENOTDIR)
    }

    /// A pipe would hold whoever opens it, a large file would fill the memory.
    @Test func whatIsNoSmallPlainFileIsNotRead() throws {
        try withPath { path in
            try TextFile.replace(path, with: String(repeating: "x", count: TextFile.sizeLimit), mode: 0o600)
            #expect(try TextFile.read(path)?.utf8.count == TextFile.sizeLimit)
            try TextFile.replace(
                path, with: String(repeating: "x", count: TextFile.sizeLimit + 1), mode: 0o600)
            let large = #expect(throws: SystemError.self) { _ = try TextFile.read(path) }
            #expect(large?.description == "\(path): it is larger than 64 KiB")
            unlink(path)
            #expect(mkfifo(path, 0o600) == 0)
            #expect(throws: SystemError.self) { _ = try TextFile.read(path) }
        }
    }

    @Test(arguments: [
        ("/a/b", "/a", "b"), ("/b", "/", "b"), ("b", ".", "b"), ("a/b", "a", "b"), ("/a/", "/a", ""),
    ])
    func aPathIsADirectoryAndAName(path: String, directory: String, name: String) {
        #expect(TextFile.split(path) == (directory, name))
    }
}
