import CKernelForwarding
import Glibc
import KernelPrograms
import NetworkNamespaces
import Testing

@testable import KernelForwarding

/// How the programs come into the kernel, and what is said where they do not.
@Suite struct LoadingTests {
    @Test func theInstructionsAreThoseOfThePrograms() throws {
        // Beside the sources of this file; the toolchain that builds it has the compiler.
        let root = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        #expect(throws: Never.self) { try execute("/\(root)/tools/generate-kernel-path --check") }
    }

    @Test(.enabled(if: namespacesAreExpected)) func theKernelTakesThemAndDoesWhatItShould() {
        #expect(throws: Never.self) { try KernelForwarder.probe() }
    }

    @Test(.enabled(if: namespacesAreExpected)) func aProgramThatIsRefusedSaysWhy() {
        // exit, with nothing in the register that is returned.
        let code: [UInt64] = [0x95]
        code.withUnsafeBufferPointer { code in
            let error = #expect(throws: KernelProgramError.self) {
                try KernelProgram.load(code, mark: UInt32(KERNEL_MAP_MARK), maps: [], name: "twill_test")
            }
            #expect(error?.description.contains("R0 !read_ok") == true, "\(error.map { "\($0)" } ?? "")")
        }
    }
}
