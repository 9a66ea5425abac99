#include "ort/cpu_op.h"

#include <memory>
#include <stdexcept>

#include "core/dispatch.h"
#include "core/weight.h"
#include "ort/custom_op.h"
#include "ort/status.h"

namespace dualbinary {
namespace {

// ONNX Runtime's intra-op pool as a ParallelFor.
struct HostPool {
  const OrtApi& api;
  const OrtKernelContext* context;

  static void run(void* pool, void (*task)(void*, std::size_t), void* data, std::size_t count) {
    const auto& host = *static_cast<HostPool*>(pool);
    // 0 batches: every index is a task of its own.
    check(host.api, host.api.KernelContext_ParallelFor(host.context, task, count, 0, data));
  }
};

class CpuKernel : public NodeKernel {
 public:
  CpuKernel(const Node& node, const Kernel& kernel)
      : weight_(node.shape, node.stored, kernel, many_rows_kernel(kernel)) {}

  void multiply(const Call& call) const override {
    HostPool pool{call.api, call.context};
    weight_.multiply(call.x, call.rows, call.y, {HostPool::run, &pool});
  }

 private:
  Weight weight_;
};

std::unique_ptr<NodeKernel> create(const Node& node) {
  const Kernel& kernel = choose_kernel(static_cast<int>(node.accuracy_level), node.shape.layout);
  return std::make_unique<CpuKernel>(node, kernel);
}

// Without entries for bfloat16 ONNX Runtime would say that there is no implementation, and not why.
std::unique_ptr<NodeKernel> refuse_bfloat16(const Node&) {
  throw std::invalid_argument(
      "X: expected float32 or float16, got bfloat16, which is for CUDA devices alone; use the CUDA provider, or a "
      "model of another type");
}

}  // namespace

std::vector<const OrtCustomOp*> new_cpu_ops(const OrtApi& api) {
  constexpr auto kFloat32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  constexpr auto kFloat16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
  constexpr auto kBFloat16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
  constexpr auto kUint8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  std::vector<const OrtCustomOp*> ops;
  for (const auto x_type : {kFloat32, kFloat16, kBFloat16}) {
    const auto make = x_type == kBFloat16 ? refuse_bfloat16 : create;
    for (const auto scale_type : {kFloat16, kFloat32, kUint8}) {
      ops.push_back(new_custom_op(api, {"CPUExecutionProvider", x_type, scale_type, OrtMemTypeDefault, make}));
    }
  }
  return ops;
}

}  // namespace dualbinary
