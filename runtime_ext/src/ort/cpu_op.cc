#include "ort/cpu_op.h"

#include <memory>
#include <stdexcept>

#include "core/dispatch.h"
#include "core/matmul.h"
#include "core/weight.h"
#include "ort/custom_op.h"
#include "ort/host_pool.h"

namespace dualbinary {
namespace {

class CpuNodeKernel : public NodeKernel {
 public:
  CpuNodeKernel(const Node& node, const MatMulKernel& kernel)
      : weight_(node.shape, node.stored, kernel, many_rows_kernel(kernel, node.shape)) {}

  void multiply(const Call& call) const override {
    HostPool pool{call.api, call.context};
    dualbinary::multiply(weight_, call.x, call.rows, call.y, pool.loop());
  }

 private:
  Weight weight_;
};

std::unique_ptr<NodeKernel> create(const Node& node) {
  return std::make_unique<CpuNodeKernel>(node, choose_kernel(node.shape));
}

// Without entries for bfloat16 ONNX Runtime would say that there is no implementation, but not why.
std::unique_ptr<NodeKernel> refuse_bfloat16(const Node&) {
  throw std::invalid_argument(
      "X: expected float32 or float16, got bfloat16, which is for CUDA devices alone; use the CUDA provider, or a "
      "model of another type");
}

}  // namespace

std::vector<const OrtCustomOp*> new_cpu_ops(const OrtApi& api) {
  return new_custom_ops(api, "CPUExecutionProvider", OrtMemTypeDefault, [](ONNXTensorElementDataType x_type) {
    return x_type == ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 ? refuse_bfloat16 : create;
  });
}

}  // namespace dualbinary
