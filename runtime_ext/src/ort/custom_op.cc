#include "ort/custom_op.h"

#include <functional>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "contract.h"
#include "ort/node.h"
#include "ort/node_reader.h"
#include "ort/status.h"

namespace dualbinary {
namespace {

// OrtCustomOp's callbacks get the struct back, so what belongs to one entry follows it.
struct CustomOp : OrtCustomOp {
  const OrtApi* api;
  const char* provider;
  ONNXTensorElementDataType x_type;
  ONNXTensorElementDataType scale_type;
  OrtMemType weight_memory;
  NodeKernelFactory create;
};

const CustomOp& self(const OrtCustomOp* op) { return *static_cast<const CustomOp*>(op); }

// Object that ONNX Runtime holds for one node of one session.
struct Instance {
  const OrtApi& api;
  std::string where;  // starts every message: op and node
  Shape shape;
  std::unique_ptr<NodeKernel> kernel;
};

std::unique_ptr<Instance> create(const CustomOp& op, const OrtKernelInfo* info, std::string where) {
  const OrtApi& api = *op.api;
  const Spec spec = read_attributes(KernelAttributes(api, info));
  const OrtValue* planes = constant_input(api, info, contract::kInputPlanes, "planes");
  const OrtValue* scales = constant_input(api, info, contract::kInputScales, "scales");
  const TensorInfo x{op.x_type, {spec.K}};  // its dimensions are checked by each run
  const Shape shape = check_inputs(spec, x, read_info(api, planes), read_info(api, scales)).value();
  const Stored stored{static_cast<const std::uint8_t*>(tensor_data(api, planes)), tensor_data(api, scales)};
  auto kernel = op.create({api, info, shape, stored});
  return std::make_unique<Instance>(Instance{api, std::move(where), shape, std::move(kernel)});
}

OrtStatus* ORT_API_CALL create_kernel(const OrtCustomOp* op, const OrtApi* runtime_api, const OrtKernelInfo* info,
                                      void** kernel) noexcept {
  std::string where;
  OrtStatus* status = guarded(*runtime_api, "", [&] { where = node_prefix(*runtime_api, info, contract::kOpName); });
  if (status != nullptr) return status;
  return guarded(*runtime_api, where, [&] { *kernel = create(self(op), info, where).release(); });
}

void ORT_API_CALL destroy_kernel(void* kernel) noexcept { delete static_cast<Instance*>(kernel); }

void compute_output(const Instance& instance, OrtKernelContext* context) {
  const OrtApi& api = instance.api;
  const OrtValue* x = nullptr;
  check(api, api.KernelContext_GetInput(context, contract::kInputX, &x));
  TensorInfo info = read_info(api, x);
  check_activations(instance.shape.K, info.dims);
  info.dims.back() = instance.shape.N;
  OrtValue* y = nullptr;
  check(api, api.KernelContext_GetOutput(context, 0, info.dims.data(), info.dims.size(), &y));
  const std::int64_t rows =
      std::accumulate(info.dims.begin(), info.dims.end() - 1, std::int64_t{1}, std::multiplies<>());
  if (rows == 0) return;
  void* out = nullptr;
  check(api, api.GetTensorMutableData(y, &out));
  instance.kernel->multiply({api, context, {tensor_data(api, x), element_of("X", info.type)}, rows, out});
}

OrtStatus* ORT_API_CALL compute(void* kernel, OrtKernelContext* context) noexcept {
  const auto& instance = *static_cast<const Instance*>(kernel);
  return guarded(instance.api, instance.where, [&] { compute_output(instance, context); });
}

// Y has the type and dimensions of X, symbols included, but for the last, which is N.
void infer_output(const OrtApi& api, OrtShapeInferContext* context) {
  const Spec spec = read_attributes(InferenceAttributes(api, context));
  OrtTensorTypeAndShapeInfo* info = nullptr;  // owned by the context
  const TensorInfo planes = inferred_info(api, context, contract::kInputPlanes, &info);
  const TensorInfo scales = inferred_info(api, context, contract::kInputScales, &info);
  TensorInfo x = inferred_info(api, context, contract::kInputX, &info);
  check_inputs(spec, x, planes, scales);
  x.dims.back() = spec.N;
  infer_output_like(api, context, info, x);
}

OrtStatus* ORT_API_CALL infer(const OrtCustomOp* op, OrtShapeInferContext* context) noexcept {
  const OrtApi& api = *self(op).api;
  return guarded(api, std::string(contract::kOpName) + ": ", [&] { infer_output(api, context); });
}

// A node of an older version means the same in a newer one, whose attributes have the defaults that it lacks.
constexpr int kFirstVersion = 1;

// Version and callbacks.
void fill_in(OrtCustomOp& op) {
  op.version = kOrtApiVersion;
  op.GetName = [](const OrtCustomOp*) noexcept { return contract::kOpName; };
  op.GetExecutionProviderType = [](const OrtCustomOp* o) noexcept { return self(o).provider; };
  op.GetInputTypeCount = [](const OrtCustomOp*) noexcept { return std::size_t{contract::kInputCount}; };
  op.GetInputType = [](const OrtCustomOp* o, std::size_t index) noexcept {
    if (index == contract::kInputX) return self(o).x_type;
    return index == contract::kInputPlanes ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 : self(o).scale_type;
  };
  op.GetOutputTypeCount = [](const OrtCustomOp*) noexcept { return std::size_t{1}; };
  op.GetOutputType = [](const OrtCustomOp* o, std::size_t) noexcept { return self(o).x_type; };
  op.GetInputCharacteristic = [](const OrtCustomOp*, std::size_t) noexcept { return INPUT_OUTPUT_REQUIRED; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, std::size_t) noexcept { return INPUT_OUTPUT_REQUIRED; };
  op.GetInputMemoryType = [](const OrtCustomOp* o, std::size_t index) noexcept {
    return index == contract::kInputX ? OrtMemTypeDefault : self(o).weight_memory;
  };
  op.GetStartVersion = [](const OrtCustomOp*) noexcept { return kFirstVersion; };
  op.GetEndVersion = [](const OrtCustomOp*) noexcept { return contract::kOpVersion; };
  op.InferOutputShapeFn = infer;
  op.CreateKernelV2 = create_kernel;
  op.KernelComputeV2 = compute;
  op.KernelDestroy = destroy_kernel;
}

}  // namespace

std::vector<const OrtCustomOp*> new_custom_ops(const OrtApi& api, const char* provider, OrtMemType weight_memory,
                                               NodeKernelFactory (*create_for)(ONNXTensorElementDataType x_type)) {
  constexpr auto kFloat32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  constexpr auto kFloat16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
  constexpr auto kBFloat16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
  constexpr auto kUint8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  std::vector<const OrtCustomOp*> ops;
  for (const auto x_type : {kFloat32, kFloat16, kBFloat16}) {
    for (const auto scale_type : {kFloat16, kFloat32, kBFloat16, kUint8}) {
      auto* op = new CustomOp{{}, &api, provider, x_type, scale_type, weight_memory, create_for(x_type)};
      fill_in(*op);
      ops.push_back(op);
    }
  }
  return ops;
}

}  // namespace dualbinary
