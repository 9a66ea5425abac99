// What an operator reads of its node and of a call, by ONNX Runtime's C API: attributes, tensors, shapes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "onnxruntime_c_api.h"

namespace dualbinary {

// Type and dimensions of a tensor; -1 stands for a dimension that is not known.
struct TensorInfo {
  ONNXTensorElementDataType type;
  std::vector<std::int64_t> dims;
};

TensorInfo read_info(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info);
TensorInfo read_info(const OrtApi& api, const OrtValue* value);

// An attribute of the node, or nothing where the node does not have it. Throws std::invalid_argument where it has
// another type.
class AttributeReader {
 public:
  virtual ~AttributeReader() = default;
  virtual std::optional<std::int64_t> read(const char* name) const = 0;
  virtual std::optional<float> read_float(const char* name) const = 0;
  // Throws std::invalid_argument where the node does not have it.
  std::int64_t required(const char* name) const;
};

// When a kernel is created.
class KernelAttributes : public AttributeReader {
 public:
  KernelAttributes(const OrtApi& api, const OrtKernelInfo* info) : api_(api), info_(info) {}
  std::optional<std::int64_t> read(const char* name) const override;
  std::optional<float> read_float(const char* name) const override;

 private:
  bool has_other_type(const char* name, bool number) const;
  bool succeeds(OrtStatus* status) const;

  const OrtApi& api_;
  const OrtKernelInfo* info_;
};

// When shapes are inferred.
class InferenceAttributes : public AttributeReader {
 public:
  InferenceAttributes(const OrtApi& api, const OrtShapeInferContext* context) : api_(api), context_(context) {}
  std::optional<std::int64_t> read(const char* name) const override;
  std::optional<float> read_float(const char* name) const override;

 private:
  const OrtApi& api_;
  const OrtShapeInferContext* context_;
};

// Starts every message of a node: `op_name` and the node's own.
std::string node_prefix(const OrtApi& api, const OrtKernelInfo* info, const char* op_name);

// The input of that number; throws std::invalid_argument, with its `name`, where it is not constant.
const OrtValue* constant_input(const OrtApi& api, const OrtKernelInfo* info, int index, const char* name);

const void* tensor_data(const OrtApi& api, const OrtValue* value);

// Rows of a tensor: the product of all dimensions but the last. `dims` has at least one.
std::int64_t rows_of(const std::vector<std::int64_t>& dims);

// What is known of an input while shapes are inferred. The context owns `info`.
TensorInfo inferred_info(const OrtApi& api, const OrtShapeInferContext* context, int index,
                         OrtTensorTypeAndShapeInfo** info);

// A dimension of an output that no input has.
inline constexpr std::int64_t kNewDimension = -2;

// Says that the output of that number has the type and dimensions `y`; those that are not known keep the symbols of the
// input `info`, and a kNewDimension gets `new_symbol`.
void infer_output_like(const OrtApi& api, OrtShapeInferContext* context, const OrtTensorTypeAndShapeInfo* info,
                       const TensorInfo& y, std::size_t index = 0, const char* new_symbol = "");

}  // namespace dualbinary
