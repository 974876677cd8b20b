import Addresses
import Leases
import Testing

@testable import twilld

@Suite struct SubnetArgumentTests {
    @Test(arguments: ["10.66.28.0/24", "10.66.28.0-24"])
    func aSubnetIsWrittenWithASlashOrAsItsKey(text: String) {
        #expect(SubnetArgument(argument: text)?.subnet.key == "10.66.28.0-24")
    }

    @Test(arguments: ["10.66.28.0", "10.66.28.1/24", "10.66.28.0/33", "", "x/24"])
    func whatIsNoneIsRefused(text: String) {
        #expect(SubnetArgument(argument: text) == nil)
    }
}

@Suite struct CPUListTests {
    @Test(arguments: [("0", [0]), ("0,2,4", [0, 2, 4]), ("0-3,8", [0, 1, 2, 3, 8]), ("1023", [1023])])
    func listsAndRanges(text: String, numbers: [Int]) {
        #expect(CPUList(argument: text)?.numbers == numbers)
    }

    @Test(arguments: ["", ",", "a", "3-1", "1-", "-1", "1024", "0-1024", "0,,1"])
    func nonsense(text: String) {
        #expect(CPUList(argument: text) == nil)
    }
}
