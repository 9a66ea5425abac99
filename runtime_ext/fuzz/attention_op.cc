// DualBinaryAttention as ONNX Runtime sees it: with products or without, a cache, lengths that may lie.
#include <algorithm>
#include <cstring>

#include "contract.h"
#include "products.h"

namespace {

using namespace dualbinary::fuzz;
using namespace dualbinary::contract::dual_binary_attention;

constexpr std::int64_t kMostH = 80;
constexpr std::int64_t kManyWeights = 1024;  // for more than a few tokens
constexpr int kPresentKey = 1;
constexpr int kPresentValue = 2;

struct Sizes {
  std::int64_t H, g, h, D, B, S, past;
};

// One of them is large, rarely: more would take seconds.
Sizes make_sizes(Bytes& bytes) {
  enum Large { kNone, kHeads, kHeadSize, kTokens, kCache, kCount };
  const std::int64_t large = bytes.rarely() ? 1 + bytes.below(kCount - 1) : std::int64_t{kNone};
  Sizes s{};
  s.g = 1 + bytes.below(3);
  s.h = s.g * (1 + bytes.below(large == kHeads ? 70 : 4));
  s.D = 8 * (1 + bytes.below(large == kHeadSize ? 33 : 3));
  s.B = bytes.rarely() ? 0 : 1 + bytes.below(2);
  const std::int64_t width = (s.h + 2 * s.g) * s.D;
  s.H = make_outputs(bytes, width, kMostH);
  s.S = large == kTokens ? bytes.below(90) : bytes.pick<std::int64_t>({1, 1, 2, 3, 8, 9, 0});
  if (s.H * width > kManyWeights) s.S = std::min<std::int64_t>(s.S, 3);
  s.past = bytes.below(large == kCache ? 300 : 12);
  return s;
}

void set_attributes(Bytes& bytes, OrtKernelInfo& node, const Sizes& s) {
  set_attribute(bytes, node, kAttrHiddenSize, s.H);
  set_attribute(bytes, node, kAttrNumHeads, bytes.or_edge(s.h));
  set_attribute(bytes, node, kAttrKvNumHeads, bytes.or_edge(s.g));
  set_attribute(bytes, node, kAttrHeadSize, bytes.or_edge(s.D));
  set_attribute(bytes, node, kAttrLocalWindowSize, bytes.or_edge(bytes.below(6)));
  set_attribute(bytes, node, kAttrRotaryInterleaved, bytes.or_edge(bytes.below(2)));
  set_float(bytes, node, kAttrScale, 0.25F);
  set_float(bytes, node, kAttrSoftcap, bytes.flag() ? 20.0F : 0.0F);
  set_float(bytes, node, kAttrEpsilon, 1e-6F);
}

// last_keys and longest, most often such that they fit each other and the cache.
bool set_lengths(Bytes& bytes, OrtKernelInfo& node, const Sizes& s) {
  constexpr auto kInt32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
  std::vector<std::int64_t> one;
  if (bytes.flag()) one.push_back(1);
  if (!set_input(bytes, node, kInputLastKeys, kInt32, {s.B}, false)) return false;
  if (!set_input(bytes, node, kInputLongest, kInt32, one, false)) return false;
  const std::int64_t before = s.past == 0 ? 0 : bytes.below(s.past + 1);
  const auto write = [&](const OrtValue& value, std::int64_t number) {
    const auto narrow = static_cast<std::int32_t>(bytes.or_edge(number));
    for (std::size_t i = 0; i + sizeof(narrow) <= value.bytes; i += sizeof(narrow)) {
      std::memcpy(value.data + i, &narrow, sizeof(narrow));
    }
  };
  write(*node.inputs[kInputLastKeys], before + s.S - 1);
  write(*node.inputs[kInputLongest], before + s.S);
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes bytes(data, size);
  const auto& ops = entries(kOpName);
  const OrtCustomOp& op = *ops[static_cast<std::size_t>(bytes.below(static_cast<std::int64_t>(ops.size())))];
  const Sizes s = make_sizes(bytes);
  const auto type = op.GetInputType(&op, kInputX);
  const auto cache = op.GetInputType(&op, kInputPastKey);
  const std::int64_t width = (s.h + 2 * s.g) * s.D;
  const std::int64_t E = cache == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 ? s.D + kScaleBytes : s.D;
  const bool products = bytes.flag();
  OrtKernelInfo node;
  set_attributes(bytes, node, s);
  bool all = set_input(bytes, node, kInputX, type, {s.B, s.S, products ? s.H : width}, false);
  for (const int index : {kInputPastKey, kInputPastValue}) {
    all = all && set_input(bytes, node, index, cache, {s.B, s.g, s.past, E}, false);
  }
  all = all && set_lengths(bytes, node, s);
  if (products && all) {
    const dualbinary::Spec qkv = make_spec(bytes, s.H, width);
    const dualbinary::Spec o = make_spec(bytes, s.h * s.D, s.H);
    all = set_product(bytes, node, "qkv_", qkv, kInputQkvPlanes, kInputQkvScales, onnx_type(qkv.scale_type)) &&
          set_product(bytes, node, "o_", o, kInputOPlanes, kInputOScales, onnx_type(o.scale_type));
  }
  const auto vector = [&](int index, const std::vector<std::int64_t>& dims) {
    if (all) all = set_input(bytes, node, index, type, dims, bytes.flag());
  };
  if (bytes.flag()) {
    const std::vector<std::int64_t> table{s.past + s.S + bytes.below(3), 1 + bytes.below(s.D / 2)};
    vector(kInputCosTable, table);
    if (!bytes.rarely()) vector(kInputSinTable, table);
  }
  if (products && bytes.flag()) vector(kInputNormWeight, {s.H});
  if (products && bytes.flag()) vector(kInputQkvBias, {width});
  if (bytes.flag()) vector(kInputQNormWeight, {s.D});
  if (bytes.flag()) vector(kInputKNormWeight, {s.D});
  if (products && bytes.flag()) vector(kInputOBias, {s.H});
  if (products && bytes.flag()) vector(kInputPostNormWeight, {s.H});
  if (!all) return 0;
  infer(op, node, bytes);
  std::map<std::size_t, std::size_t> shared;
  if (bytes.flag()) shared = {{kPresentKey, kInputPastKey}, {kPresentValue, kInputPastValue}};
  run(op, node, shared);
  return 0;
}
