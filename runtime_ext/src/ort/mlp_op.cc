#include "ort/mlp_op.h"

#include <array>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "contract.h"
#include "core/dispatch.h"
#include "core/mlp.h"
#include "ort/block_node.h"
#include "ort/host_pool.h"
#include "ort/node.h"
#include "ort/node_reader.h"
#include "ort/op_entry.h"
#include "ort/status.h"

namespace dualbinary {
namespace {

using namespace contract::dual_binary_mlp;

constexpr ProductPort kGateUp{"gate_up", kInputGateUpPlanes, kInputGateUpScales};
constexpr ProductPort kDown{"down", kInputDownPlanes, kInputDownScales};

// Sizes of a node.
struct Sizes {
  std::int64_t H;
  std::int64_t I;
};

Sizes read_sizes(const AttributeReader& reader) {
  const Sizes sizes{read_size(reader, kAttrHiddenSize), read_size(reader, kAttrIntermediateSize)};
  if (sizes.I <= kMaxDimension / 2) return sizes;
  throw std::invalid_argument(std::string(kAttrIntermediateSize) + ": expected at most " +
                              std::to_string(kMaxDimension / 2) + ", got " + std::to_string(sizes.I));
}

Activation read_activation(const AttributeReader& reader) {
  const std::int64_t value = reader.read(kAttrActivation).value_or(kAttrActivationDefault);
  if (value >= kAttrActivation0 && value <= kAttrActivation3) return static_cast<Activation>(value);
  throw std::invalid_argument(std::string(kAttrActivation) + ": expected 0 to 3, got " + std::to_string(value));
}

class MlpNode : public NodeInstance {
 public:
  MlpNode(const OrtApi& api, const OrtKernelInfo* info, const Sizes& sizes, const AttributeReader& reader)
      : H_(sizes.H),
        gate_up_(read_weight(api, info, kGateUp, sizes.H, 2 * sizes.I)),
        down_(read_weight(api, info, kDown, sizes.I, sizes.H)),
        mlp_{*gate_up_, *down_, read_activation(reader), reader.read_float(kAttrEpsilon).value_or(kAttrEpsilonDefault),
             choose_elementwise_kernel()},
        norm_(api, info, kInputNormWeight, "norm_weight", sizes.H),
        gate_bias_(api, info, kInputGateUpBias, "gate_up_bias", 2 * sizes.I),
        down_bias_(api, info, kInputDownBias, "down_bias", sizes.H),
        post_norm_(api, info, kInputPostNormWeight, "post_norm_weight", sizes.H) {}

  void compute(const OrtApi& api, OrtKernelContext* context) const override {
    const OrtValue* x = nullptr;
    check(api, api.KernelContext_GetInput(context, kInputX, &x));
    const TensorInfo info = read_info(api, x);
    check_activations(H_, info.dims);
    OrtValue* y = nullptr;
    check(api, api.KernelContext_GetOutput(context, 0, info.dims.data(), info.dims.size(), &y));
    const std::int64_t rows = rows_of(info.dims);
    if (rows == 0) return;
    void* out = nullptr;
    check(api, api.GetTensorMutableData(y, &out));
    HostPool pool{api, context};
    std::array<std::vector<float>, 4> scratch;
    Mlp mlp = mlp_;
    mlp.norm = norm_.read(api, context, scratch[0]);
    mlp.gate_bias = gate_bias_.read(api, context, scratch[1]);
    mlp.down_bias = down_bias_.read(api, context, scratch[2]);
    mlp.post_norm = post_norm_.read(api, context, scratch[3]);
    run_mlp(mlp, {tensor_data(api, x), element_of("X", info.type)}, rows, out, pool.loop());
  }

 private:
  std::int64_t H_;
  std::unique_ptr<Weight> gate_up_;
  std::unique_ptr<Weight> down_;
  Mlp mlp_;  // without vectors
  VectorInput norm_;
  VectorInput gate_bias_;
  VectorInput down_bias_;
  VectorInput post_norm_;
};

std::unique_ptr<NodeInstance> create(const OrtApi& api, const OrtKernelInfo* info) {
  const KernelAttributes reader(api, info);
  return std::make_unique<MlpNode>(api, info, read_sizes(reader), reader);
}

void infer_output(const OrtApi& api, OrtShapeInferContext* context) {
  const InferenceAttributes reader(api, context);
  const Sizes sizes = read_sizes(reader);
  read_activation(reader);
  read_product(reader, kGateUp, sizes.H, 2 * sizes.I);
  read_product(reader, kDown, sizes.I, sizes.H);
  OrtTensorTypeAndShapeInfo* info = nullptr;  // owned by the context
  TensorInfo x = inferred_info(api, context, kInputX, &info);
  if (x.dims.empty()) return;  // nothing is known of it
  check_activations(sizes.H, x.dims);
  x.dims.back() = sizes.H;
  infer_output_like(api, context, info, x);
}

}  // namespace

std::vector<const OrtCustomOp*> new_mlp_ops(const OrtApi& api) {
  constexpr auto kAny = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  std::vector<const OrtCustomOp*> ops;
  for (const auto type : {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16}) {
    std::vector<Port> inputs(kInputCount, Port{type, true});
    inputs[kInputX].optional = false;
    for (const ProductPort& port : {kGateUp, kDown}) {
      inputs[static_cast<std::size_t>(port.planes)] = {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8};
      inputs[static_cast<std::size_t>(port.scales)] = {kAny};
    }
    ops.push_back(new_op(api, {kOpName, "CPUExecutionProvider", inputs, {{type}}, create, infer_output}));
  }
  return ops;
}

}  // namespace dualbinary
