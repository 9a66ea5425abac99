import Foundation
import OnnxRuntimeBindings

/// An exported model and what it carries from step to step: keys and values that grow, states of fixed size.
///
/// Objective-C's interface of ONNX Runtime reads no types and shapes of inputs, so the sizes of the cache come from
/// genai_config.json beside the model and its type from export_report.json; models whose layers carry states need more
/// than these say. It has no float16: exports with `--dtype fp16` or `--kv-cache fp16` are refused.
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
        let cache = try Cache(folder: folder)
        for name in inputNames where name.hasPrefix("past_key_values.") {
            pasts[name] = try ORTValue(
                tensorData: NSMutableData(), elementType: cache.type,
                shape: [1, NSNumber(value: cache.heads), 0, NSNumber(value: cache.rowLength)])
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

/// What the export says of keys and values: [1, heads, tokens, rowLength] of one type.
private struct Cache {
    let heads: Int
    let rowLength: Int
    let type: ORTTensorElementDataType

    init(folder: URL) throws {
        let config = try decoded(GenaiConfig.self, from: folder.appendingPathComponent("genai_config.json"))
        heads = config.model.decoder.num_key_value_heads
        rowLength = config.model.decoder.head_size
        let options = try decoded(Report.self, from: folder.appendingPathComponent("export_report.json")).options
        switch (options.dtype, options.kv_cache) {
        case ("fp32", "fp32"): type = .float
        case ("fp32", "int8"): type = .int8
        default: throw UnsupportedType(options: options)
        }
    }

    private struct GenaiConfig: Decodable {
        struct Model: Decodable { let decoder: Sizes }
        struct Sizes: Decodable {
            let num_key_value_heads: Int
            let head_size: Int
        }
        let model: Model
    }
}

private struct Report: Decodable {
    struct Options: Decodable {
        let dtype: String
        let kv_cache: String
    }
    let options: Options
}

private struct UnsupportedType: LocalizedError {
    let options: Report.Options
    var errorDescription: String? {
        "export_report.json: expected activations of fp32 and a cache of fp32 or int8, "
            + "got \(options.dtype) and \(options.kv_cache); export with --dtype fp32, and --kv-cache model or int8"
    }
}

private func decoded<T: Decodable>(_ type: T.Type, from file: URL) throws -> T {
    try JSONDecoder().decode(type, from: Data(contentsOf: file))
}
