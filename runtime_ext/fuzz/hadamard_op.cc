// SignedHadamard as ONNX Runtime sees it.
#include <cstring>

#include "contract.h"
#include "products.h"

namespace {

using namespace dualbinary::fuzz;
using namespace dualbinary::contract::signed_hadamard;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes bytes(data, size);
  const auto& ops = entries(kOpName);
  const OrtCustomOp& op = *ops[static_cast<std::size_t>(bytes.below(static_cast<std::int64_t>(ops.size())))];
  const std::int64_t block = bytes.power();
  const std::int64_t K = block * (1 + bytes.below(3)) + (bytes.rarely() ? 1 : 0);
  OrtKernelInfo node;
  set_attribute(bytes, node, kAttrBlockSize, bytes.or_edge(block));
  set_attribute(bytes, node, kAttrInverse, bytes.or_edge(bytes.below(2)));
  const bool all =
      set_input(bytes, node, kInputX, op.GetInputType(&op, kInputX), {bytes.below(9), K}, false) &&
      set_input(bytes, node, kInputS, bytes.rarely() ? any_type(bytes) : op.GetInputType(&op, kInputS), {K});
  if (!all) return 0;
  if (!bytes.rarely()) {
    OrtValue& signs = *node.inputs[kInputS];
    for (std::size_t i = 0; i < signs.bytes; ++i) signs.data[i] = (signs.data[i] & 1) == 0 ? 1 : 255;
  }
  infer(op, node, bytes);
  run(op, node);
  return 0;
}
