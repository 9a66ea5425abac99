#include "fake_ort.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "capi/dualbinary_onnxruntime.h"

namespace dualbinary::fuzz {
namespace {

// Outputs that are larger are refused, as a host does that is out of memory.
constexpr std::size_t kMaxOutputBytes = std::size_t{1} << 24;

OrtStatus* failure(const std::string& message) { return new OrtStatus{ORT_FAIL, message}; }

// The attribute of that name and type, or null.
template <class T>
const T* attribute(const OrtKernelInfo* info, const char* name) {
  const auto found = info->attributes.find(name);
  return found == info->attributes.end() ? nullptr : std::get_if<T>(&found->second.value);
}

template <class T>
OrtStatus* get_attribute(const OrtKernelInfo* info, const char* name, T* out) {
  const T* value = attribute<T>(info, name);
  if (value == nullptr) return failure("no such attribute");
  *out = *value;
  return nullptr;
}

OrtStatus* get_string(const std::string& text, char* out, std::size_t* size) {
  const std::size_t wanted = text.size() + 1;
  if (out != nullptr && *size < wanted) return failure("too small");
  if (out != nullptr) std::memcpy(out, text.c_str(), wanted);
  *size = wanted;
  return nullptr;
}

void set_attributes(OrtApi& api) {
  api.KernelInfoGetAttribute_int64 = [](const OrtKernelInfo* info, const char* name, std::int64_t* out) noexcept {
    return get_attribute(info, name, out);
  };
  api.KernelInfoGetAttribute_float = [](const OrtKernelInfo* info, const char* name, float* out) noexcept {
    return get_attribute(info, name, out);
  };
  api.KernelInfoGetAttribute_string = [](const OrtKernelInfo* info, const char* name, char* out,
                                         std::size_t* size) noexcept {
    const auto* text = attribute<std::string>(info, name);
    return text == nullptr ? failure("no such attribute") : get_string(*text, out, size);
  };
  api.KernelInfoGetAttributeArray_int64 = [](const OrtKernelInfo* info, const char* name, std::int64_t*,
                                             std::size_t* size) noexcept -> OrtStatus* {
    const auto* list = attribute<std::vector<std::int64_t>>(info, name);
    if (list == nullptr) return failure("no such attribute");
    *size = list->size();
    return nullptr;
  };
  api.KernelInfoGetAttributeArray_float = [](const OrtKernelInfo*, const char*, float*, std::size_t*) noexcept {
    return failure("no such attribute");
  };
  api.ShapeInferContext_GetAttribute = [](const OrtShapeInferContext* context, const char* name,
                                          const OrtOpAttr** out) noexcept -> OrtStatus* {
    const auto found = context->node->attributes.find(name);
    if (found == context->node->attributes.end()) return failure("no such attribute");
    *out = &found->second;
    return nullptr;
  };
  api.ReadOpAttr = [](const OrtOpAttr* attr, OrtOpAttrType type, void* out, std::size_t,
                      std::size_t* size) noexcept -> OrtStatus* {
    const auto* integer = std::get_if<std::int64_t>(&attr->value);
    const auto* number = std::get_if<float>(&attr->value);
    if (type == ORT_OP_ATTR_INT && integer != nullptr) {
      std::memcpy(out, integer, *size = sizeof(*integer));
    } else if (type == ORT_OP_ATTR_FLOAT && number != nullptr) {
      std::memcpy(out, number, *size = sizeof(*number));
    } else {
      return failure("another type");
    }
    return nullptr;
  };
}

void set_inputs(OrtApi& api) {
  api.KernelInfo_GetNodeName = [](const OrtKernelInfo*, char* out, std::size_t* size) noexcept {
    return get_string("fuzzed", out, size);
  };
  api.KernelInfo_GetInputCount = [](const OrtKernelInfo* info, std::size_t* out) noexcept -> OrtStatus* {
    *out = info->inputs.size();
    return nullptr;
  };
  api.KernelInfo_GetInputName = [](const OrtKernelInfo* info, std::size_t index, char* out,
                                   std::size_t* size) noexcept {
    return get_string(info->inputs.at(index) ? "input" : "", out, size);
  };
  api.KernelInfoGetConstantInput_tensor = [](const OrtKernelInfo* info, std::size_t index, int* is_constant,
                                             const OrtValue** out) noexcept -> OrtStatus* {
    const bool there = index < info->inputs.size() && info->inputs[index] && info->constant[index];
    *is_constant = there ? 1 : 0;
    *out = there ? &*info->inputs[index] : nullptr;
    return nullptr;
  };
  api.KernelContext_GetInput = [](const OrtKernelContext* context, std::size_t index,
                                  const OrtValue** out) noexcept -> OrtStatus* {
    auto& inputs = context->node->inputs;
    *out = index < inputs.size() && inputs[index] ? &*inputs[index] : nullptr;
    return nullptr;
  };
  api.KernelContext_GetOutput = [](OrtKernelContext* context, std::size_t index, const std::int64_t* dims,
                                   std::size_t rank, OrtValue** out) noexcept -> OrtStatus* {
    const std::size_t typed_as = index == 0 ? 0 : 1;  // outputs of all operators have the type of an input
    auto& inputs = context->node->inputs;
    OrtValue value{inputs[typed_as]->type, {dims, dims + rank}, nullptr, nullptr, 0};
    value.bytes = element_bytes(value.type);
    for (const std::int64_t dim : value.dims) {
      if (dim < 0 || value.bytes > kMaxOutputBytes) return failure("no memory for an output");
      value.bytes *= static_cast<std::size_t>(dim);
    }
    if (value.bytes > kMaxOutputBytes) return failure("no memory for an output");
    const auto shared = context->shared.find(index);
    if (shared != context->shared.end() && inputs[shared->second]->dims == value.dims) {
      value.data = inputs[shared->second]->data;
    } else {
      value.memory.reset(new std::uint8_t[value.bytes]);
      value.data = value.memory.get();
      std::memset(value.data, context->fill, value.bytes);
    }
    *out = &(context->outputs[index] = std::move(value));
    return nullptr;
  };
  api.KernelContext_ParallelFor = [](const OrtKernelContext* context, void (*task)(void*, std::size_t),
                                     std::size_t total, std::size_t, void* data) noexcept -> OrtStatus* {
    for (std::size_t i = 0; i < total; ++i) task(data, context->backwards ? total - 1 - i : i);
    return nullptr;
  };
}

void set_tensors(OrtApi& api) {
  api.GetTensorMutableData = [](OrtValue* value, void** out) noexcept -> OrtStatus* {
    *out = value->data;
    return nullptr;
  };
  api.GetTensorTypeAndShape = [](const OrtValue* value, OrtTensorTypeAndShapeInfo** out) noexcept -> OrtStatus* {
    *out = new OrtTensorTypeAndShapeInfo{value->type, value->dims, {}};
    return nullptr;
  };
  api.CreateTensorTypeAndShapeInfo = [](OrtTensorTypeAndShapeInfo** out) noexcept -> OrtStatus* {
    *out = new OrtTensorTypeAndShapeInfo;
    return nullptr;
  };
  api.ReleaseTensorTypeAndShapeInfo = [](OrtTensorTypeAndShapeInfo* info) noexcept { delete info; };
  api.GetTensorElementType = [](const OrtTensorTypeAndShapeInfo* info,
                                ONNXTensorElementDataType* out) noexcept -> OrtStatus* {
    *out = info->type;
    return nullptr;
  };
  api.GetDimensionsCount = [](const OrtTensorTypeAndShapeInfo* info, std::size_t* out) noexcept -> OrtStatus* {
    *out = info->dims.size();
    return nullptr;
  };
  api.GetDimensions = [](const OrtTensorTypeAndShapeInfo* info, std::int64_t* out, std::size_t) noexcept -> OrtStatus* {
    std::copy(info->dims.begin(), info->dims.end(), out);
    return nullptr;
  };
  api.GetSymbolicDimensions = [](const OrtTensorTypeAndShapeInfo* info, const char* out[],
                                 std::size_t) noexcept -> OrtStatus* {
    for (std::size_t i = 0; i < info->dims.size(); ++i)
      out[i] = i < info->symbols.size() ? info->symbols[i].c_str() : "";
    return nullptr;
  };
  api.SetTensorElementType = [](OrtTensorTypeAndShapeInfo* info,
                                ONNXTensorElementDataType type) noexcept -> OrtStatus* {
    info->type = type;
    return nullptr;
  };
  api.SetDimensions = [](OrtTensorTypeAndShapeInfo* info, const std::int64_t* dims,
                         std::size_t rank) noexcept -> OrtStatus* {
    info->dims.assign(dims, dims + rank);
    return nullptr;
  };
  api.SetSymbolicDimensions = [](OrtTensorTypeAndShapeInfo* info, const char* symbols[],
                                 std::size_t rank) noexcept -> OrtStatus* {
    info->symbols.assign(symbols, symbols + rank);
    return nullptr;
  };
  api.ShapeInferContext_GetInputTypeShape = [](const OrtShapeInferContext* context, std::size_t index,
                                               OrtTensorTypeAndShapeInfo** out) noexcept -> OrtStatus* {
    if (index >= context->inputs.size()) return failure("no such input");
    *out = const_cast<OrtTensorTypeAndShapeInfo*>(&context->inputs[index]);
    return nullptr;
  };
  api.ShapeInferContext_SetOutputTypeShape = [](const OrtShapeInferContext* context, std::size_t index,
                                                const OrtTensorTypeAndShapeInfo* info) noexcept -> OrtStatus* {
    const_cast<OrtShapeInferContext*>(context)->outputs[index] = *info;
    return nullptr;
  };
}

void set_registration(OrtApi& api) {
  api.CreateStatus = [](OrtErrorCode code, const char* message) noexcept { return new OrtStatus{code, message}; };
  api.GetErrorCode = [](const OrtStatus* status) noexcept { return status->code; };
  api.GetErrorMessage = [](const OrtStatus* status) noexcept { return status->message.c_str(); };
  api.ReleaseStatus = [](OrtStatus* status) noexcept { delete status; };
  api.CreateCustomOpDomain = [](const char*, OrtCustomOpDomain** out) noexcept -> OrtStatus* {
    *out = new OrtCustomOpDomain;
    return nullptr;
  };
  api.CustomOpDomain_Add = [](OrtCustomOpDomain* domain, const OrtCustomOp* op) noexcept -> OrtStatus* {
    domain->ops.push_back(op);
    return nullptr;
  };
  api.AddCustomOpDomain = [](OrtSessionOptions* options, OrtCustomOpDomain* domain) noexcept -> OrtStatus* {
    options->domains.push_back(domain);
    return nullptr;
  };
}

}  // namespace

const OrtApi* fake_api() {
  static const OrtApi* const api = [] {
    auto* table = new OrtApi{};
    set_attributes(*table);
    set_inputs(*table);
    set_tensors(*table);
    set_registration(*table);
    return table;
  }();
  return api;
}

const std::vector<const OrtCustomOp*>& entries(const std::string& name) {
  static const OrtSessionOptions* const options = [] {
    // A runtime of version 17 has no CUDA devices for custom ops, so that only what runs here is registered.
    const OrtApiBase base{[](std::uint32_t version) noexcept { return version == 17 ? fake_api() : nullptr; },
                          []() noexcept { return "1.32.0"; }};
    auto* registered = new OrtSessionOptions;
    if (RegisterDualBinaryCustomOps(registered, &base) != nullptr) throw std::logic_error("registration failed");
    return registered;
  }();
  static auto* const known = new std::map<std::string, std::vector<const OrtCustomOp*>>;
  std::vector<const OrtCustomOp*>& found = (*known)[name];
  if (!found.empty()) return found;
  for (const OrtCustomOp* op : options->domains.front()->ops) {
    if (name == op->GetName(op)) found.push_back(op);
  }
  if (found.empty()) throw std::logic_error("no operator " + name);
  return found;
}

}  // namespace dualbinary::fuzz
