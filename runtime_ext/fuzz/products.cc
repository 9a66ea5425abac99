#include "products.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "contract.h"
#include "core/dispatch.h"

namespace dualbinary::fuzz {
namespace {

// At least this many tensors of a node are there, however many it has.
constexpr std::int64_t kMostSmall = 40;

// Weights of a product, and weights times planes times rows; and what is always allowed of each.
constexpr std::int64_t kMostWeights = 4096;
constexpr std::int64_t kMostWork = 32768;
constexpr std::int64_t kMostRows = 70;
constexpr std::int64_t kLeastOutputs = 8;
constexpr std::int64_t kLeastRows = 1;

std::vector<std::int64_t> spoiled(Bytes& bytes, std::vector<std::int64_t> dims) {
  if (!bytes.rarely()) return dims;
  if (bytes.flag() || dims.empty()) {
    dims.resize(static_cast<std::size_t>(bytes.below(5)), 1);
  } else {
    dims[static_cast<std::size_t>(bytes.below(static_cast<std::int64_t>(dims.size())))] = bytes.below(kMostSmall);
  }
  return dims;
}

// What the contract says, or else anything.
template <class Dims>
std::vector<std::int64_t> dims_of(Bytes& bytes, const Spec& spec, const Dims& dims) {
  try {
    return dims(checked_shape(spec));
  } catch (const std::invalid_argument&) {
    return {bytes.below(kMostSmall), bytes.below(kMostSmall), bytes.below(kMostSmall)};
  }
}

}  // namespace

std::int64_t make_outputs(Bytes& bytes, std::int64_t K, std::int64_t most) {
  return bytes.size(std::min(most, std::max(kMostWeights / std::max<std::int64_t>(K, 1), kLeastOutputs)));
}

std::int64_t make_rows(Bytes& bytes, const Spec& spec, std::int64_t few) {
  std::int64_t work = kMostWork;  // an attribute that is spoiled says nothing of the work
  for (const std::int64_t size : {spec.K, spec.N, spec.planes}) {
    if (size > 0 && size <= kMostWork) work /= size;
  }
  const std::int64_t most = std::clamp(work, kLeastRows, kMostRows);
  return bytes.below((bytes.rarely() ? most : std::min(few, most)) + 1);
}

Spec make_spec(Bytes& bytes, std::int64_t K, std::int64_t N) {
  using namespace contract;
  Spec spec{};
  spec.K = bytes.or_edge(K);
  spec.N = bytes.or_edge(N);
  spec.levels = bytes.or_edge(bytes.below(2));
  const bool even = spec.levels == kEvenLevels;
  spec.group_size = bytes.pick<std::int64_t>({32, 32, 64, 96, 128, 256, 16, 16});
  if (!even) spec.group_size = std::max<std::int64_t>(spec.group_size, kGroupMultiple);
  spec.group_size = std::min(spec.group_size, std::max<std::int64_t>((K + 31) / 32 * 32, 32));
  spec.group_size = bytes.or_edge(spec.group_size);
  const auto readable = readable_layouts();
  const auto layout = static_cast<std::size_t>(bytes.below(static_cast<std::int64_t>(readable.size())));
  spec.layout = bytes.or_edge(readable[layout]);
  if (spec.layout == kLayoutCodes && !even) spec.layout = kLayoutPlain;
  spec.planes = spec.layout == kLayoutCodes ? bytes.pick<std::int64_t>({2, 4, 8}) : 1 + bytes.below(kMaxPlanes);
  spec.planes = bytes.or_edge(spec.planes);
  const bool offset = bytes.flag();
  spec.scale_rows = bytes.or_edge((even ? 1 : std::clamp<std::int64_t>(spec.planes, 0, kMaxPlanes)) + (offset ? 1 : 0));
  spec.accuracy_level = bytes.or_edge(bytes.flag() ? kAttrAccuracyLevel4 : kAttrAccuracyLevel0);
  const std::int64_t zeros = std::int64_t{2} << std::clamp<std::int64_t>(spec.planes, 0, kMaxPlanes);
  if (even && !offset) spec.twice_zero = bytes.below(zeros) - 1;
  spec.twice_zero = bytes.or_edge(std::min(spec.twice_zero, zeros - 2));
  const bool alike = even && spec.group_size >= K && spec.twice_zero != kGroupZeros && !in_blocks(spec);
  spec.scale_outputs = alike && bytes.flag() ? 1 : spec.N;
  spec.scale_type = bytes.pick({Element::kFloat16, Element::kFloat32, Element::kCode8, Element::kBFloat16});
  return spec;
}

std::vector<std::int64_t> make_planes_dims(Bytes& bytes, const Spec& spec) { return dims_of(bytes, spec, planes_dims); }

std::vector<std::int64_t> make_scales_dims(Bytes& bytes, const Spec& spec) { return dims_of(bytes, spec, scales_dims); }

void limit_factors(Bytes& bytes, OrtValue& scales) {
  constexpr std::uint8_t kSmall = 0x3F;  // an exponent below 16
  if (scales.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 || scales.dims.size() != 3 || bytes.rarely()) return;
  const auto row = static_cast<std::size_t>(scales.dims.back());
  for (std::size_t i = 1; row > 1 && i < scales.bytes; i += row) scales.data[i] &= kSmall;
}

ONNXTensorElementDataType onnx_type(Element type) {
  switch (type) {
    case Element::kFloat32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case Element::kFloat16:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case Element::kBFloat16:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
    default:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  }
}

void set_attribute(Bytes& bytes, OrtKernelInfo& node, const std::string& name, std::int64_t value) {
  OrtOpAttr& attribute = node.attributes[name];
  attribute.value = value;
  if (!bytes.rarely()) return;
  switch (bytes.below(5)) {
    case 0:
      node.attributes.erase(name);
      break;
    case 1:
      attribute.value = 1.5F;
      break;
    case 2:
      attribute.value = std::string("text");
      break;
    case 3:
      attribute.value = std::vector<std::int64_t>{value};
      break;
    default:
      attribute.value = bytes.edge();
  }
}

void set_float(Bytes& bytes, OrtKernelInfo& node, const std::string& name, float value) {
  OrtOpAttr& attribute = node.attributes[name];
  attribute.value = value;
  if (!bytes.rarely()) return;
  if (bytes.flag()) {
    set_attribute(bytes, node, name, bytes.edge());
  } else {
    constexpr float kMost = std::numeric_limits<float>::max();
    attribute.value = bytes.pick({0.0F, -1.0F, kMost, -kMost, 1e-45F, std::numeric_limits<float>::infinity(),
                                  std::numeric_limits<float>::quiet_NaN()});
  }
}

bool set_input(Bytes& bytes, OrtKernelInfo& node, int index, ONNXTensorElementDataType type,
               std::vector<std::int64_t> dims, bool constant) {
  const auto at = static_cast<std::size_t>(index);
  if (node.inputs.size() <= at) {
    node.inputs.resize(at + 1);
    node.constant.resize(at + 1);
  }
  node.constant[at] = bytes.rarely() ? !constant : constant;
  node.inputs[at] = new_tensor(bytes, type, spoiled(bytes, std::move(dims)), constant);
  return node.inputs[at].has_value();
}

bool set_product(Bytes& bytes, OrtKernelInfo& node, const std::string& prefix, const Spec& spec, int planes, int scales,
                 ONNXTensorElementDataType scale_type) {
  using namespace contract;
  set_attribute(bytes, node, prefix + kAttrGroupSize, spec.group_size);
  set_attribute(bytes, node, prefix + kAttrLayout, spec.layout);
  set_attribute(bytes, node, prefix + kAttrAccuracyLevel, spec.accuracy_level);
  set_attribute(bytes, node, prefix + kAttrLevels, spec.levels);
  set_attribute(bytes, node, prefix + kAttrTwiceZero, spec.twice_zero);
  const bool both =
      set_input(bytes, node, planes, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, make_planes_dims(bytes, spec)) &&
      set_input(bytes, node, scales, scale_type, make_scales_dims(bytes, spec));
  if (both) limit_factors(bytes, *node.inputs[static_cast<std::size_t>(scales)]);
  return both;
}

}  // namespace dualbinary::fuzz
