import Addresses
import ArgumentParser
import Leases
import Testing

@testable import twilld

@Suite struct SubnetArgumentTests {
    @Test(arguments: ["10.66.28.0/24", "10.66.28.0-24"])
    func aSubnetIsWrittenWithASlashOrAsItsKey(text: String) {
        #expect((try? SubnetArgument(checking: text))?.subnet.key == "10.66.28.0-24")
    }

    @Test(arguments: [
        ("10.66.28.0", "is written like"), ("10.66.28.1/24", "did you mean 10.66.28.0/24?"),
        ("10.66.28.0/33", "is written like"), ("", "is written like"), ("x/24", "is written like"),
    ])
    func whatIsNoneIsRefusedAndSaysWhy(text: String, reason: String) {
        let error = #expect(throws: ValidationError.self) { try SubnetArgument(checking: text) }
        #expect(error?.message.contains(reason) == true, "\(error?.message ?? "")")
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
