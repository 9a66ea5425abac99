#include "ort/custom_op.h"

#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "contract.h"
#include "ort/node.h"
#include "ort/node_reader.h"
#include "ort/op_entry.h"
#include "ort/status.h"

namespace dualbinary {
namespace {

// Object that ONNX Runtime holds for one node of one session.
class MatMulNode : public NodeInstance {
 public:
  MatMulNode(const Shape& shape, std::unique_ptr<NodeKernel> kernel) : shape_(shape), kernel_(std::move(kernel)) {}

  void compute(const OrtApi& api, OrtKernelContext* context) const override {
    const OrtValue* x = nullptr;
    check(api, api.KernelContext_GetInput(context, contract::kInputX, &x));
    TensorInfo info = read_info(api, x);
    check_activations(shape_.K, info.dims);
    info.dims.back() = shape_.N;
    OrtValue* y = nullptr;
    check(api, api.KernelContext_GetOutput(context, 0, info.dims.data(), info.dims.size(), &y));
    const std::int64_t rows = rows_of(info.dims);
    if (rows == 0) return;
    void* out = nullptr;
    check(api, api.GetTensorMutableData(y, &out));
    kernel_->multiply({api, context, {tensor_data(api, x), element_of("X", info.type)}, rows, out});
  }

 private:
  Shape shape_;
  std::unique_ptr<NodeKernel> kernel_;
};

std::unique_ptr<NodeInstance> create(const OrtApi& api, const OrtKernelInfo* info, ONNXTensorElementDataType x_type,
                                     NodeKernelFactory create_kernel) {
  const Spec spec = read_attributes(KernelAttributes(api, info));
  const OrtValue* planes = constant_input(api, info, contract::kInputPlanes, "planes");
  const OrtValue* scales = constant_input(api, info, contract::kInputScales, "scales");
  const TensorInfo x{x_type, {spec.K}};  // its dimensions are checked by each run
  const std::optional<Shape> shape = check_inputs(spec, x, read_info(api, planes), read_info(api, scales));
  if (!shape) throw std::logic_error("constant tensors have all their dimensions");
  const Stored stored{static_cast<const std::uint8_t*>(tensor_data(api, planes)), tensor_data(api, scales)};
  return std::make_unique<MatMulNode>(*shape, create_kernel({api, info, *shape, stored}));
}

// Y has the type and dimensions of X, symbols included, but for the last, which is N.
void infer_output(const OrtApi& api, OrtShapeInferContext* context) {
  const Spec spec = read_attributes(InferenceAttributes(api, context));
  OrtTensorTypeAndShapeInfo* info = nullptr;  // owned by the context
  const TensorInfo planes = inferred_info(api, context, contract::kInputPlanes, &info);
  const TensorInfo scales = inferred_info(api, context, contract::kInputScales, &info);
  TensorInfo x = inferred_info(api, context, contract::kInputX, &info);
  if (x.dims.empty()) return;  // nothing is known of it
  check_inputs(spec, x, planes, scales);
  x.dims.back() = spec.N;
  infer_output_like(api, context, info, x);
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
      const NodeKernelFactory create_kernel = create_for(x_type);
      const auto create_node = [x_type, create_kernel](const OrtApi& runtime_api, const OrtKernelInfo* info) {
        return create(runtime_api, info, x_type, create_kernel);
      };
      ops.push_back(new_op(api, {contract::kOpName,
                                 provider,
                                 {{x_type}, {kUint8, false, weight_memory}, {scale_type, false, weight_memory}},
                                 {{x_type}},
                                 create_node,
                                 infer_output}));
    }
  }
  return ops;
}

}  // namespace dualbinary
