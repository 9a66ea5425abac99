// DualBinaryMatMul as ONNX Runtime sees it: attributes, constant planes and scales, a call.
#include "contract.h"
#include "products.h"

namespace {

using namespace dualbinary::fuzz;
using namespace dualbinary::contract;

constexpr std::int64_t kMostK = 300;
constexpr std::int64_t kMostN = 100;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes bytes(data, size);
  const auto& ops = entries(kOpName);
  const OrtCustomOp& op = *ops[static_cast<std::size_t>(bytes.below(static_cast<std::int64_t>(ops.size())))];
  const std::int64_t K = bytes.size(kMostK);
  const std::int64_t N = make_outputs(bytes, K, kMostN);
  dualbinary::Spec spec = make_spec(bytes, K, N);
  const auto scale_type = op.GetInputType(&op, kInputScales);
  for (const auto type : {dualbinary::Element::kFloat32, dualbinary::Element::kFloat16, dualbinary::Element::kCode8,
                          dualbinary::Element::kBFloat16}) {
    if (onnx_type(type) == scale_type) spec.scale_type = type;
  }
  OrtKernelInfo node;
  set_attribute(bytes, node, kAttrK, spec.K);
  set_attribute(bytes, node, kAttrN, spec.N);
  std::vector<std::int64_t> dims{make_rows(bytes, spec, 7), K};
  if (bytes.flag()) dims.insert(dims.begin(), bytes.below(3));
  const bool all = set_input(bytes, node, kInputX, op.GetInputType(&op, kInputX), dims, false) &&
                   set_product(bytes, node, "", spec, kInputPlanes, kInputScales, scale_type);
  if (!all) return 0;
  infer(op, node, bytes);
  run(op, node);
  return 0;
}
