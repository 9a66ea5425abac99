// DualBinaryMlp as ONNX Runtime sees it: two products, vectors that may be missing or come with the call.
#include "contract.h"
#include "products.h"

namespace {

using namespace dualbinary::fuzz;
using namespace dualbinary::contract::dual_binary_mlp;

constexpr std::int64_t kMostH = 100;
constexpr std::int64_t kMostI = 120;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes bytes(data, size);
  const auto& ops = entries(kOpName);
  const OrtCustomOp& op = *ops[static_cast<std::size_t>(bytes.below(static_cast<std::int64_t>(ops.size())))];
  const std::int64_t H = bytes.size(kMostH);
  const std::int64_t I = make_outputs(bytes, H, kMostI);
  const auto type = op.GetInputType(&op, kInputX);
  OrtKernelInfo node;
  set_attribute(bytes, node, kAttrHiddenSize, bytes.or_edge(H));
  set_attribute(bytes, node, kAttrIntermediateSize, bytes.or_edge(I));
  set_attribute(bytes, node, kAttrActivation, bytes.or_edge(bytes.below(4)));
  set_float(bytes, node, kAttrEpsilon, 1e-6F);
  dualbinary::Spec gate_up = make_spec(bytes, H, 2 * I);
  dualbinary::Spec down = make_spec(bytes, I, H);
  const auto types = [&](const dualbinary::Spec& spec) {
    return bytes.rarely() ? any_type(bytes) : onnx_type(spec.scale_type);
  };
  bool all = set_input(bytes, node, kInputX, type, {make_rows(bytes, gate_up, 4), H}, false) &&
             set_product(bytes, node, "gate_up_", gate_up, kInputGateUpPlanes, kInputGateUpScales, types(gate_up)) &&
             set_product(bytes, node, "down_", down, kInputDownPlanes, kInputDownScales, types(down));
  const auto vector = [&](int index, std::int64_t length) {
    if (bytes.flag()) all = set_input(bytes, node, index, type, {length}, bytes.flag()) && all;
  };
  vector(kInputNormWeight, H);
  vector(kInputGateUpBias, 2 * I);
  vector(kInputDownBias, H);
  vector(kInputPostNormWeight, H);
  if (!all) return 0;
  infer(op, node, bytes);
  run(op, node);
  return 0;
}
