// What `tools/check-traps --self-test` must find: each line that ends in "fault", and no other. It belongs to no target.

func planted(_ bytes: [UInt8], _ number: Int, _ word: UInt16, _ text: String, _ fraction: Double, _ any: Any)
    throws
{
    _ = UInt16(number)  // fault
    _ = Int32(number)  // fault
    _ = UInt32(Int64(number))  // fault
    _ = Int(fraction)  // fault
    _ = Int(text)!  // fault
    _ = any as! Int  // fault
    _ = try! fails()  // fault
    _ = bytes[number]  // fault
    _ = number + 1  // fault
    _ = number * number  // fault
    _ = -number  // fault
    _ = bytes[number..<bytes.count]  // fault
    _ = [number].map(UInt8.init(_:))  // fault

    // What holds by its types, or answers nil, or is said to be checked.
    _ = Int(word)
    _ = UInt64(word)
    _ = UInt16(exactly: number)
    _ = UInt16(clamping: number)
    _ = UInt16(truncatingIfNeeded: number)
    _ = UInt(bitPattern: number)
    _ = Int(text)
    _ = bytes.first
    _ = number &+ 1
    _ = number / 2
    _ = bytes[0]  // checked: the caller gives one byte at least
    _ = try? fails()
}

func fails() throws -> Int { 1 }

/// A generic conversion holds for no type at all.
func generic<Number: FixedWidthInteger>(_ number: Int) -> Number { Number(number) }  // fault
