#if COVERAGE
    import Glibc

    // The same targets under libFuzzer, which is linked by -sanitize=fuzzer and looks for inputs that reach new code.

    @_silgen_name("LLVMFuzzerRunDriver")
    private func LLVMFuzzerRunDriver(
        _ count: UnsafeMutablePointer<Int32>,
        _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
        _ run: @convention(c) (UnsafePointer<UInt8>?, Int) -> Int32
    ) -> Int32

    nonisolated(unsafe) private var covered: (any FuzzTarget)?

    /// Runs one target under libFuzzer with its arguments (`-max_total_time=60 CORPUS`); gives the exit status.
    public func runLibFuzzer(_ named: NamedFuzzTarget, _ arguments: [String]) -> Int32 {
        covered = named.make()
        var count = Int32(arguments.count + 1)
        let list = UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>.allocate(capacity: arguments.count + 2)
        for (index, text) in ([named.name] + arguments).enumerated() { list[index] = strdup(text) }
        list[arguments.count + 1] = nil
        var start = list
        return LLVMFuzzerRunDriver(&count, &start) { bytes, length in
            let input = Array(UnsafeBufferPointer(start: bytes, count: length))
            do { try covered?.run(input) } catch { fatalError("\(error)") }
            return 0
        }
    }

    /// Writes a target's seeds as files of a corpus.
    public func writeSeeds(of named: NamedFuzzTarget, to directory: String) {
        for (index, seed) in named.make().seeds.enumerated() {
            guard let file = fopen("\(directory)/seed-\(index)", "w") else { continue }
            fwrite(seed, 1, seed.count, file)
            fclose(file)
        }
    }
#endif
