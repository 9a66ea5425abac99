#include "ort/node.h"

#include <stdexcept>
#include <string>

#include "contract.h"
#include "ort/status.h"

namespace dualbinary {
namespace {

constexpr std::size_t kPlanesRank = 3;  // [P, N, Kp/8 + Z], and in layout codes [N, Kp/G + E, G*P/8]
constexpr std::size_t kBlocksRank = 2;  // [B, bytes of a block]
constexpr std::size_t kScalesRank = 3;  // [C, N, Kp/G]

// Expected and got differ where both are known.
void check_dims(const char* name, const std::vector<std::int64_t>& expected, const std::vector<std::int64_t>& got) {
  bool same = expected.size() == got.size();
  for (std::size_t i = 0; same && i < got.size(); ++i) same = got[i] < 0 || got[i] == expected[i];
  if (!same) {
    throw std::invalid_argument(std::string(name) + ": expected shape " + to_string(expected) + ", got " +
                                to_string(got));
  }
}

void check_rank(const char* name, const char* shape, std::size_t rank, const std::vector<std::int64_t>& dims) {
  if (dims.size() == rank) return;
  throw std::invalid_argument(std::string(name) + ": expected shape " + shape + ", got " + to_string(dims));
}

// P of an output block of that many bytes. Free levels: C, or C-1 where one row is the offset; even ones: any. Throws
// where none fits.
std::int64_t planes_in_block(Spec spec, std::int64_t bytes) {
  const bool even = spec.levels == kEvenLevels;
  const std::int64_t most = even ? contract::kMaxPlanes : spec.scale_rows;
  const std::int64_t least = even ? contract::kMinPlanes : spec.scale_rows - 1;
  // A zero point that P does not allow is told once P is known.
  if (spec.twice_zero != kGroupZeros) spec.twice_zero = 0;
  std::string expected;
  for (spec.planes = most; spec.planes >= least; --spec.planes) {
    if (spec.planes < contract::kMinPlanes || spec.planes > contract::kMaxPlanes) continue;
    const std::vector<std::int64_t> dims = planes_dims(checked_shape(spec));
    if (dims.back() == bytes) return spec.planes;
    expected += (expected.empty() ? "" : " or ") + std::to_string(dims.back());
  }
  if (expected.empty()) return spec.scale_rows;  // which checked_shape() refuses
  throw std::invalid_argument("planes: expected blocks of " + expected + " bytes for " +
                              std::to_string(spec.scale_rows) + " rows of scales, got " + std::to_string(bytes));
}

const char* planes_shape(const Spec& spec) {
  if (in_blocks(spec)) return "[B, bytes of a block]";
  const bool zeros = spec.twice_zero == kGroupZeros;
  if (spec.layout == contract::kLayoutCodes) return zeros ? "[N, Kp/G + E, G*P/8]" : "[N, Kp/G, G*P/8]";
  return zeros ? "[P, N, Kp/8 + Z]" : "[P, N, Kp/8]";
}

// P of planes of the right rank; their dimensions are still to be checked.
std::int64_t planes_of(const Spec& spec, const std::vector<std::int64_t>& dims) {
  if (in_blocks(spec)) return planes_in_block(spec, dims.back());
  if (spec.layout == contract::kLayoutPlain) return dims.front();
  const std::int64_t G = spec.group_size;
  return dims.back() / G * 8 + dims.back() % G * 8 / G;  // 8 * dims.back() / G, which might overflow
}

Element scale_element_of(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      return Element::kFloat32;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      return Element::kFloat16;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
      return Element::kBFloat16;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
      return Element::kCode8;
    default:
      throw std::invalid_argument("scales: expected float16, float32, bfloat16 or uint8, got ONNX element type " +
                                  std::to_string(type));
  }
}

}  // namespace

Element element_of(const char* name, ONNXTensorElementDataType type) {
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) return Element::kFloat32;
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) return Element::kFloat16;
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16) return Element::kBFloat16;
  throw std::invalid_argument(std::string(name) + ": expected float32, float16 or bfloat16, got ONNX element type " +
                              std::to_string(type));
}

Spec read_attributes(const AttributeReader& reader) {
  const std::int64_t K = reader.required(contract::kAttrK);
  return read_attributes(reader, K, reader.required(contract::kAttrN));
}

Spec read_attributes(const AttributeReader& reader, std::int64_t K, std::int64_t N) {
  using namespace contract;
  Spec spec{};
  spec.K = K;
  spec.N = N;
  spec.group_size = reader.required(kAttrGroupSize);
  spec.layout = reader.read(kAttrLayout).value_or(kAttrLayoutDefault);
  spec.accuracy_level = reader.read(kAttrAccuracyLevel).value_or(kAttrAccuracyLevelDefault);
  spec.levels = reader.read(kAttrLevels).value_or(kAttrLevelsDefault);
  spec.twice_zero = reader.read(kAttrTwiceZero).value_or(kAttrTwiceZeroDefault);
  check_attributes(spec);
  return spec;
}

std::optional<Shape> check_inputs(Spec spec, const TensorInfo& x, const TensorInfo& planes, const TensorInfo& scales) {
  element_of("X", x.type);
  check_activations(spec.K, x.dims);
  if (planes.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8) {
    throw std::invalid_argument("planes: expected uint8, got ONNX element type " + std::to_string(planes.type));
  }
  spec.scale_type = scale_element_of(scales.type);
  const bool blocks = in_blocks(spec);
  check_rank("planes", planes_shape(spec), blocks ? kBlocksRank : kPlanesRank, planes.dims);
  check_rank("scales", blocks ? "[C, N, 0]" : "[C, N, Kp/G]", kScalesRank, scales.dims);
  if ((spec.layout == contract::kLayoutPlain ? planes.dims.front() : planes.dims.back()) < 0 || scales.dims[0] < 0) {
    return std::nullopt;
  }
  spec.scale_rows = scales.dims[0];
  spec.scale_outputs = !blocks && spec.levels == kEvenLevels && scales.dims[1] == 1 ? 1 : spec.N;
  spec.planes = planes_of(spec, planes.dims);
  const Shape shape = checked_shape(spec);
  check_dims("planes", planes_dims(shape), planes.dims);
  check_dims("scales", scales_dims(shape), scales.dims);
  return shape;
}

void check_activations(std::int64_t K, const std::vector<std::int64_t>& dims) {
  if (!dims.empty() && (dims.back() < 0 || dims.back() == K)) return;
  throw std::invalid_argument("X: expected shape [.., " + std::to_string(K) + "], got " + to_string(dims));
}

}  // namespace dualbinary
