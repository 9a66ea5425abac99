// generate FOLDER COUNT ID...: the likeliest continuation of these tokens, one line of ids.
import Foundation

let arguments = CommandLine.arguments.dropFirst()
let numbers = arguments.dropFirst().map { Int64($0) }
guard numbers.count >= 2, !numbers.contains(nil), let count = numbers[0], count >= 0 else {
    FileHandle.standardError.write(Data("usage: generate FOLDER COUNT ID..., where COUNT and IDs are numbers\n".utf8))
    exit(2)
}
do {
    let decoder = try Decoder(folder: URL(fileURLWithPath: arguments.first!))
    var tokens = numbers.dropFirst().compactMap { $0 }
    var answer: [Int64] = []
    for _ in 0..<count {
        answer.append(try decoder.step(tokens))
        tokens = [answer.last!]
    }
    print(answer.map(String.init).joined(separator: " "))
} catch {
    FileHandle.standardError.write(Data("error: \(error.localizedDescription)\n".utf8))
    exit(1)
}
