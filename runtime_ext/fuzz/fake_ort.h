// A stand-in for ONNX Runtime: nodes, tensors and calls that a fuzzer makes up, behind the same table of functions. The
// library is compiled as it is, and its operators are those that it registers. Each tensor is an allocation of its own
// and of exactly its size, so that a sanitizer sees every access past it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "bytes.h"
#include "onnxruntime_c_api.h"

// The types of ONNX Runtime, which its header leaves open.
struct OrtStatus {
  OrtErrorCode code;
  std::string message;
};

struct OrtTensorTypeAndShapeInfo {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  std::vector<std::int64_t> dims;
  std::vector<std::string> symbols;
};

struct OrtValue {
  ONNXTensorElementDataType type;
  std::vector<std::int64_t> dims;
  std::unique_ptr<std::uint8_t[]> memory;
  std::uint8_t* data;
  std::size_t bytes;
};

struct OrtOpAttr {
  std::variant<std::int64_t, float, std::string, std::vector<std::int64_t>> value;
};

struct OrtCustomOpDomain {
  std::vector<const OrtCustomOp*> ops;
};

struct OrtSessionOptions {
  std::vector<OrtCustomOpDomain*> domains;
};

// A node and its inputs; an input without a value is one that the node does not have.
struct OrtKernelInfo {
  std::map<std::string, OrtOpAttr> attributes;
  std::vector<std::optional<OrtValue>> inputs;
  std::vector<bool> constant;
};

struct OrtShapeInferContext {
  const OrtKernelInfo* node;
  std::vector<OrtTensorTypeAndShapeInfo> inputs;
  std::map<std::size_t, OrtTensorTypeAndShapeInfo> outputs;
};

// One call. Outputs are filled with `fill` before; output i has the memory of input shared[i] where that fits.
struct OrtKernelContext {
  OrtKernelInfo* node;
  std::uint8_t fill;
  bool backwards;  // parallel loops run from their end
  std::map<std::size_t, std::size_t> shared;
  std::map<std::size_t, OrtValue> outputs;
};

namespace dualbinary::fuzz {

// The table of functions, those that the library calls.
const OrtApi* fake_api();

std::size_t element_bytes(ONNXTensorElementDataType type);

// A tensor of these dimensions, or nothing where it would be larger than an input of a fuzzer may be. Contents are
// noise, of which numbers in floating point are ordinary ones, or with special ones in between. A constant may begin at
// any byte, as one does that a hostile file puts there.
std::optional<OrtValue> new_tensor(Bytes& bytes, ONNXTensorElementDataType type, std::vector<std::int64_t> dims,
                                   bool constant = false);

// All entries of an operator of the library: one for each combination of types.
const std::vector<const OrtCustomOp*>& entries(const std::string& name);

// Types that a tensor may have where an entry takes any.
ONNXTensorElementDataType any_type(Bytes& bytes);

// Has the operator infer shapes; then creates the kernel and calls it twice: with other garbage in the outputs, and
// parallel loops in the other direction. Ends the process where the two calls differ: outputs are then not all written,
// or depend on the order of the work. `shared` is that of OrtKernelContext, for the first call alone.
void infer(const OrtCustomOp& op, const OrtKernelInfo& node, Bytes& bytes);
void run(const OrtCustomOp& op, OrtKernelInfo& node, const std::map<std::size_t, std::size_t>& shared = {});

}  // namespace dualbinary::fuzz
