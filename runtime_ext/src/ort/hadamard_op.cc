#include "ort/hadamard_op.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>

#include "contract.h"
#include "core/dispatch.h"
#include "core/hadamard.h"
#include "core/spec.h"
#include "ort/host_pool.h"
#include "ort/node.h"
#include "ort/node_reader.h"
#include "ort/status.h"

namespace dualbinary {
namespace {

using namespace contract::signed_hadamard;

struct HadamardOp : OrtCustomOp {
  const OrtApi* api;
  ONNXTensorElementDataType type;
};

const HadamardOp& self(const OrtCustomOp* op) { return *static_cast<const HadamardOp*>(op); }

// A node of a session, whose signs stay in the model's memory.
struct Instance {
  const OrtApi& api;
  std::string where;  // starts every message: op and node
  Hadamard hadamard;
  const std::int8_t* signs;
  const HadamardKernel& kernel;
};

// Attributes and signs, the K of which is theirs; 0 where their shape is not known.
Hadamard read_node(const AttributeReader& reader, const TensorInfo& signs) {
  Hadamard result{0, reader.required(kAttrBlockSize), reader.read(kAttrInverse).value_or(kAttrInverseDefault)};
  check_block(result);
  if (signs.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8) {
    throw std::invalid_argument("S: expected int8, got ONNX element type " + std::to_string(signs.type));
  }
  if (signs.dims.size() != 1) throw std::invalid_argument("S: expected shape [K], got " + to_string(signs.dims));
  if (signs.dims[0] < 0) return result;
  result.K = signs.dims[0];
  check_inputs(result);
  return result;
}

std::unique_ptr<Instance> create(const OrtApi& api, const OrtKernelInfo* info, std::string where) {
  const KernelAttributes attributes(api, info);
  const OrtValue* value = constant_input(api, info, kInputS, "S");
  const Hadamard hadamard = read_node(attributes, read_info(api, value));
  const auto* signs = static_cast<const std::int8_t*>(tensor_data(api, value));
  check_signs(hadamard, signs);
  return std::make_unique<Instance>(Instance{api, std::move(where), hadamard, signs, choose_hadamard_kernel()});
}

OrtStatus* ORT_API_CALL create_kernel(const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info,
                                      void** kernel) noexcept {
  std::string where;
  OrtStatus* status = guarded(*api, "", [&] { where = node_prefix(*api, info, kOpName); });
  if (status != nullptr) return status;
  return guarded(*api, where, [&] { *kernel = create(*api, info, where).release(); });
}

void ORT_API_CALL destroy_kernel(void* kernel) noexcept { delete static_cast<Instance*>(kernel); }

void transform(const Instance& instance, OrtKernelContext* context) {
  const OrtApi& api = instance.api;
  const OrtValue* x = nullptr;
  check(api, api.KernelContext_GetInput(context, kInputX, &x));
  const TensorInfo info = read_info(api, x);
  check_activations(instance.hadamard.K, info.dims);
  OrtValue* y = nullptr;
  check(api, api.KernelContext_GetOutput(context, 0, info.dims.data(), info.dims.size(), &y));
  const std::int64_t rows =
      std::accumulate(info.dims.begin(), info.dims.end() - 1, std::int64_t{1}, std::multiplies<>());
  if (rows == 0) return;
  void* out = nullptr;
  check(api, api.GetTensorMutableData(y, &out));
  HostPool pool{api, context};
  signed_hadamard(instance.kernel, instance.hadamard, instance.signs, {tensor_data(api, x), element_of("X", info.type)},
                  rows, out, pool.loop());
}

OrtStatus* ORT_API_CALL compute(void* kernel, OrtKernelContext* context) noexcept {
  const auto& instance = *static_cast<const Instance*>(kernel);
  return guarded(instance.api, instance.where, [&] { transform(instance, context); });
}

void infer_output(const OrtApi& api, OrtShapeInferContext* context) {
  OrtTensorTypeAndShapeInfo* info = nullptr;  // owned by the context
  const TensorInfo signs = inferred_info(api, context, kInputS, &info);
  const Hadamard hadamard = read_node(InferenceAttributes(api, context), signs);
  TensorInfo x = inferred_info(api, context, kInputX, &info);
  if (hadamard.K > 0) {
    check_activations(hadamard.K, x.dims);
    x.dims.back() = hadamard.K;
  }
  infer_output_like(api, context, info, x);
}

OrtStatus* ORT_API_CALL infer(const OrtCustomOp* op, OrtShapeInferContext* context) noexcept {
  const OrtApi& api = *self(op).api;
  return guarded(api, std::string(kOpName) + ": ", [&] { infer_output(api, context); });
}

void fill_in(OrtCustomOp& op) {
  op.version = kOrtApiVersion;
  op.GetName = [](const OrtCustomOp*) noexcept { return kOpName; };
  op.GetExecutionProviderType = [](const OrtCustomOp*) noexcept { return "CPUExecutionProvider"; };
  op.GetInputTypeCount = [](const OrtCustomOp*) noexcept { return std::size_t{kInputCount}; };
  op.GetInputType = [](const OrtCustomOp* o, std::size_t index) noexcept {
    return index == kInputX ? self(o).type : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
  };
  op.GetOutputTypeCount = [](const OrtCustomOp*) noexcept { return std::size_t{1}; };
  op.GetOutputType = [](const OrtCustomOp* o, std::size_t) noexcept { return self(o).type; };
  op.GetInputCharacteristic = [](const OrtCustomOp*, std::size_t) noexcept { return INPUT_OUTPUT_REQUIRED; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, std::size_t) noexcept { return INPUT_OUTPUT_REQUIRED; };
  op.GetInputMemoryType = [](const OrtCustomOp*, std::size_t) noexcept { return OrtMemTypeDefault; };
  op.GetStartVersion = [](const OrtCustomOp*) noexcept { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) noexcept { return contract::kOpVersion; };
  op.InferOutputShapeFn = infer;
  op.CreateKernelV2 = create_kernel;
  op.KernelComputeV2 = compute;
  op.KernelDestroy = destroy_kernel;
}

}  // namespace

std::vector<const OrtCustomOp*> new_hadamard_ops(const OrtApi& api) {
  std::vector<const OrtCustomOp*> ops;
  for (const auto type : {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16}) {
    auto* op = new HadamardOp{{}, &api, type};
    fill_in(*op);
    ops.push_back(op);
  }
  return ops;
}

}  // namespace dualbinary
