#include "ort/node_reader.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>

#include "ort/status.h"

namespace dualbinary {
namespace {

[[noreturn]] void refuse_type(const char* name, const char* expected = "an integer") {
  throw std::invalid_argument(std::string("attribute ") + name + ": expected " + expected + ", got another type");
}

}  // namespace

TensorInfo read_info(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info) {
  TensorInfo result{ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, {}};
  std::size_t rank = 0;
  check(api, api.GetTensorElementType(info, &result.type));
  check(api, api.GetDimensionsCount(info, &rank));
  result.dims.resize(rank);
  check(api, api.GetDimensions(info, result.dims.data(), rank));
  return result;
}

TensorInfo read_info(const OrtApi& api, const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api, api.GetTensorTypeAndShape(value, &info));
  const Owned<OrtTensorTypeAndShapeInfo> owner(info, api.ReleaseTensorTypeAndShapeInfo);
  return read_info(api, info);
}

std::int64_t AttributeReader::required(const char* name) const {
  const auto value = read(name);
  if (!value) throw std::invalid_argument(std::string("attribute ") + name + " is missing; expected an integer");
  return *value;
}

std::optional<std::int64_t> KernelAttributes::read(const char* name) const {
  std::int64_t value = 0;
  if (succeeds(api_.KernelInfoGetAttribute_int64(info_, name, &value))) return value;
  if (has_other_type(name, false)) refuse_type(name);
  return std::nullopt;
}

std::optional<float> KernelAttributes::read_float(const char* name) const {
  float value = 0;
  if (succeeds(api_.KernelInfoGetAttribute_float(info_, name, &value))) return value;
  if (has_other_type(name, true)) refuse_type(name, "a number");
  return std::nullopt;
}

// The API answers alike for an absent attribute and for one of another type; only asking for the others tells. A
// default must not take the place of a value that the model does give.
bool KernelAttributes::has_other_type(const char* name, bool number) const {
  float found = 0;
  std::int64_t integer = 0;
  std::size_t size = 0;
  return (number ? succeeds(api_.KernelInfoGetAttribute_int64(info_, name, &integer))
                 : succeeds(api_.KernelInfoGetAttribute_float(info_, name, &found))) ||
         succeeds(api_.KernelInfoGetAttribute_string(info_, name, nullptr, &size)) ||
         succeeds(api_.KernelInfoGetAttributeArray_int64(info_, name, nullptr, &size)) ||
         succeeds(api_.KernelInfoGetAttributeArray_float(info_, name, nullptr, &size));
}

bool KernelAttributes::succeeds(OrtStatus* status) const {
  if (status == nullptr) return true;
  api_.ReleaseStatus(status);
  return false;
}

std::optional<std::int64_t> InferenceAttributes::read(const char* name) const {
  const OrtOpAttr* attribute = nullptr;
  if (OrtStatus* absent = api_.ShapeInferContext_GetAttribute(context_, name, &attribute)) {
    api_.ReleaseStatus(absent);
    return std::nullopt;
  }
  std::int64_t value = 0;
  std::size_t size = 0;
  OrtStatus* status = api_.ReadOpAttr(attribute, ORT_OP_ATTR_INT, &value, sizeof(value), &size);
  if (status == nullptr) return value;
  api_.ReleaseStatus(status);
  refuse_type(name);
}

std::optional<float> InferenceAttributes::read_float(const char* name) const {
  const OrtOpAttr* attribute = nullptr;
  if (OrtStatus* absent = api_.ShapeInferContext_GetAttribute(context_, name, &attribute)) {
    api_.ReleaseStatus(absent);
    return std::nullopt;
  }
  float value = 0;
  std::size_t size = 0;
  OrtStatus* status = api_.ReadOpAttr(attribute, ORT_OP_ATTR_FLOAT, &value, sizeof(value), &size);
  if (status == nullptr) return value;
  api_.ReleaseStatus(status);
  refuse_type(name, "a number");
}

std::string node_prefix(const OrtApi& api, const OrtKernelInfo* info, const char* op_name) {
  std::size_t size = 0;
  std::string name;
  check(api, api.KernelInfo_GetNodeName(info, nullptr, &size));
  name.resize(size);
  check(api, api.KernelInfo_GetNodeName(info, name.data(), &size));
  while (!name.empty() && name.back() == '\0') name.pop_back();
  return std::string(op_name) + " node '" + name + "': ";
}

const OrtValue* constant_input(const OrtApi& api, const OrtKernelInfo* info, int index, const char* name) {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(api, api.KernelInfoGetConstantInput_tensor(info, static_cast<std::size_t>(index), &is_constant, &value));
  if (is_constant == 0 || value == nullptr) {
    throw std::invalid_argument(std::string(name) + ": must be a constant initializer of the model");
  }
  return value;
}

const void* tensor_data(const OrtApi& api, const OrtValue* value) {
  void* data = nullptr;
  // The C API has no read-only access; constants are not written to.
  check(api, api.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  return data;
}

std::int64_t rows_of(const std::vector<std::int64_t>& dims) {
  const auto end = dims.end() - 1;
  // A tensor without elements may have other dimensions of any size, which must not be multiplied.
  if (std::find(dims.begin(), end, 0) != end) return 0;
  return std::accumulate(dims.begin(), end, std::int64_t{1}, std::multiplies<>());
}

TensorInfo inferred_info(const OrtApi& api, const OrtShapeInferContext* context, int index,
                         OrtTensorTypeAndShapeInfo** info) {
  check(api, api.ShapeInferContext_GetInputTypeShape(context, static_cast<std::size_t>(index), info));
  return read_info(api, *info);
}

void infer_output_like(const OrtApi& api, OrtShapeInferContext* context, const OrtTensorTypeAndShapeInfo* info,
                       const TensorInfo& y, std::size_t index, const char* new_symbol) {
  std::vector<const char*> symbols(y.dims.size());
  check(api, api.GetSymbolicDimensions(info, symbols.data(), symbols.size()));
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    if (y.dims[i] >= 0) symbols[i] = "";
    if (y.dims[i] < -1) symbols[i] = new_symbol;
  }
  std::vector<std::int64_t> dims = y.dims;
  for (std::int64_t& dim : dims) dim = std::max<std::int64_t>(dim, -1);
  OrtTensorTypeAndShapeInfo* output = nullptr;
  check(api, api.CreateTensorTypeAndShapeInfo(&output));
  const Owned<OrtTensorTypeAndShapeInfo> owner(output, api.ReleaseTensorTypeAndShapeInfo);
  check(api, api.SetTensorElementType(output, y.type));
  check(api, api.SetDimensions(output, dims.data(), dims.size()));
  check(api, api.SetSymbolicDimensions(output, symbols.data(), symbols.size()));
  check(api, api.ShapeInferContext_SetOutputTypeShape(context, index, output));
}

}  // namespace dualbinary
