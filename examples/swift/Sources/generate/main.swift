// generate FOLDER COUNT ID...: the likeliest continuation of these tokens, one line of ids.
import Foundation

let arguments = CommandLine.arguments.dropFirst()
guard arguments.count >= 3, let count = Int(arguments[arguments.startIndex + 1]) else {
    FileHandle.standardError.write(Data("usage: generate FOLDER COUNT ID...\n".utf8))
    exit(2)
}
do {
    let decoder = try Decoder(folder: URL(fileURLWithPath: arguments[arguments.startIndex]))
    var tokens = arguments.dropFirst(2).compactMap { Int64($0) }
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
