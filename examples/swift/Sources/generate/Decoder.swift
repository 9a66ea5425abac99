import Foundation
import OnnxRuntimeBindings

/// An exported model and what it carries from step to step: keys and values that grow, states of fixed size.
///
/// Objective-C's interface of ONNX Runtime reads no input shapes, so the sizes of the cache come from genai_config.json
/// beside the model; models whose layers carry states need more than that file says.
final class Decoder {
    private let environment: ORTEnv
    private let session: ORTSession
    private let inputNames: Set<String>
    private var pasts: [String: ORTValue] = [:]
    private var length = 0

    /// Loads `folder`/model.onnx, with the operators that are linked into the program.
    init(folder: URL) throws {
        environment = try ORTEnv(loggingLevel: .error)
        let options = try ORTSessionOptions()
        try options.registerCustomOps(usingFunction: "RegisterDualBinaryCustomOps")
        session = try ORTSession(
            env: environment, modelPath: folder.appendingPathComponent("model.onnx").path, sessionOptions: options)
        inputNames = Set(try session.inputNames())
        let sizes = try CacheSizes(folder: folder)
        for name in inputNames where name.hasPrefix("past_key_values.") {
            pasts[name] = try ORTValue(
                tensorData: NSMutableData(), elementType: .float,
                shape: [1, NSNumber(value: sizes.heads), 0, NSNumber(value: sizes.headSize)])
        }
    }

    /// Appends tokens and returns the likeliest next one.
    func step(_ tokens: [Int64]) throws -> Int64 {
        let positions = (0..<tokens.count).map { Int64(length + $0) }
        length += tokens.count
        var inputs = pasts
        inputs["input_ids"] = try row(tokens)
        inputs["attention_mask"] = try row([Int64](repeating: 1, count: length))
        if inputNames.contains("position_ids") { inputs["position_ids"] = try row(positions) }
        let presents = Dictionary(uniqueKeysWithValues: pasts.keys.map { past in
            (past, "present" + past.dropFirst("past_key_values".count))
        })
        let outputs = try session.run(
            withInputs: inputs, outputNames: Set(presents.values).union(["logits"]), runOptions: nil)
        for (past, present) in presents { pasts[past] = outputs[present] }
        return try likeliest(outputs["logits"]!)
    }

    private func row(_ values: [Int64]) throws -> ORTValue {
        let data = values.withUnsafeBytes { NSMutableData(bytes: $0.baseAddress, length: $0.count) }
        return try ORTValue(tensorData: data, elementType: .int64, shape: [1, NSNumber(value: values.count)])
    }

    /// Index of the largest value in the last row of logits [1, s, vocabulary], float32.
    private func likeliest(_ logits: ORTValue) throws -> Int64 {
        let vocabulary = try logits.tensorTypeAndShapeInfo().shape.last!.intValue
        let data = try logits.tensorData() as Data
        return data.withUnsafeBytes { bytes in
            let row = bytes.bindMemory(to: Float.self).suffix(vocabulary)
            return Int64(row.indices.max { row[$0] < row[$1] }! - row.startIndex)
        }
    }
}

/// What genai_config.json says of keys and values.
private struct CacheSizes {
    let heads: Int
    let headSize: Int

    init(folder: URL) throws {
        let data = try Data(contentsOf: folder.appendingPathComponent("genai_config.json"))
        let file = try JSONDecoder().decode(File.self, from: data)
        heads = file.model.decoder.num_key_value_heads
        headSize = file.model.decoder.head_size
    }

    private struct File: Decodable {
        struct Model: Decodable { let decoder: Sizes }
        struct Sizes: Decodable {
            let num_key_value_heads: Int
            let head_size: Int
        }
        let model: Model
    }
}
