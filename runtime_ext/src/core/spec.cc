#include "core/spec.h"

#include <iterator>
#include <stdexcept>

#include "contract.h"

namespace dualbinary {
namespace {

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

[[noreturn]] void refuse(const char* name, const std::string& expected, std::int64_t got) {
  throw std::invalid_argument(std::string(name) + ": expected " + expected + ", got " + std::to_string(got));
}

constexpr std::int64_t kLayouts = std::size(contract::kLayoutNames);

// "1 (plain), 2 (avx512), .."
std::string known_layouts() {
  std::string list;
  for (std::int64_t layout = contract::kLayoutPlain; layout < contract::kLayoutPlain + kLayouts; ++layout) {
    list += (list.empty() ? "" : ", ") + std::to_string(layout) + " (" + layout_name(layout) + ")";
  }
  return list;
}

std::int64_t scale_bytes(Element type) {
  if (type == Element::kCode8) return 1;
  return type == Element::kFloat16 ? 2 : 4;
}

std::int64_t blocks(const Shape& shape) { return round_up(shape.N, contract::kBlockRows) / contract::kBlockRows; }

// Bytes of one output block: factors where scales are codes, then the scales and lines of each group.
std::int64_t block_bytes(const Shape& shape) {
  const std::int64_t scales = shape.scale_rows * contract::kBlockRows;
  const std::int64_t factors = shape.scale_type == Element::kCode8 ? scales * kFactorBytes : 0;
  const std::int64_t group_scales = round_up(scales * scale_bytes(shape.scale_type), contract::kBlockAlignment);
  const std::int64_t group_lines = shape.planes * shape.group_size / 8 * contract::kBlockRows;
  return round_up(factors, contract::kBlockAlignment) + shape.groups * (group_scales + group_lines);
}

std::uint64_t product(const std::vector<std::int64_t>& dims) {
  std::uint64_t result = 1;
  for (const std::int64_t dim : dims) result *= static_cast<std::uint64_t>(dim);
  return result;
}

void check_range(const char* name, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value < low || value > high) refuse(name, std::to_string(low) + " to " + std::to_string(high), value);
}

}  // namespace

void check_attributes(const Spec& spec) {
  using namespace contract;
  check_range(kAttrK, spec.K, kAttrKMinimum, kMaxDimension);
  check_range(kAttrN, spec.N, kAttrNMinimum, kMaxDimension);
  if (spec.group_size < kAttrGroupSizeMinimum || spec.group_size % kGroupMultiple != 0) {
    refuse(kAttrGroupSize, "a positive multiple of " + std::to_string(kGroupMultiple), spec.group_size);
  }
  const std::int64_t largest = round_up(spec.K, kGroupMultiple);
  if (spec.group_size > largest) {
    refuse(kAttrGroupSize, "at most " + std::to_string(largest) + " for K = " + std::to_string(spec.K),
           spec.group_size);
  }
  if (spec.layout < kLayoutPlain || spec.layout >= kLayoutPlain + kLayouts) {
    refuse(kAttrLayout, "one of " + known_layouts() + ", the stored layouts that this library knows", spec.layout);
  }
  if (spec.accuracy_level != kAttrAccuracyLevel0 && spec.accuracy_level != kAttrAccuracyLevel4) {
    refuse(kAttrAccuracyLevel, "0 or 4", spec.accuracy_level);
  }
}

Shape checked_shape(const Spec& spec) {
  check_attributes(spec);
  check_range("number of planes", spec.planes, contract::kMinPlanes, contract::kMaxPlanes);
  check_range("rows of scales", spec.scale_rows, spec.planes, spec.planes + 1);
  if (spec.scale_type != Element::kFloat16 && spec.scale_type != Element::kFloat32 &&
      spec.scale_type != Element::kCode8) {
    throw std::invalid_argument("scales: expected float16, float32 or uint8");
  }
  const std::int64_t padded = round_up(spec.K, spec.group_size);
  std::int64_t segment = kMaxSegment;
  while (spec.group_size % segment != 0) segment -= contract::kGroupMultiple;
  return {spec, padded / spec.group_size, segment, padded / segment};
}

void check_cuda_limits(const Shape& shape) {
  using namespace contract;
  constexpr char kElsewhere[] = "; use the CPU provider";
  const auto refuse_on_cuda = [](const char* name, const std::string& expected, const std::string& got) {
    throw std::invalid_argument(std::string(name) + ": expected " + expected + " on a CUDA device, got " + got);
  };
  if (shape.layout != kLayoutPlain) {
    refuse_on_cuda(kAttrLayout, std::to_string(kLayoutPlain) + " (" + layout_name(kLayoutPlain) + ")",
                   std::to_string(shape.layout) + " (" + layout_name(shape.layout) +
                       "), which is for CPUs; run `dualbinary relayout FILE OUT --layout plain`");
  }
  if (shape.planes > kCudaMaxPlanes) {
    refuse_on_cuda("number of planes", "1 to " + std::to_string(kCudaMaxPlanes),
                   std::to_string(shape.planes) + kElsewhere);
  }
  if (shape.K > kCudaMaxK) {
    refuse_on_cuda(kAttrK, "at most " + std::to_string(kCudaMaxK), std::to_string(shape.K) + kElsewhere);
  }
}

std::vector<std::int64_t> planes_dims(const Shape& shape) {
  if (shape.layout != contract::kLayoutPlain) return {blocks(shape), block_bytes(shape)};
  return {shape.planes, shape.N, shape.groups * shape.group_size / 8};
}

std::vector<std::int64_t> scales_dims(const Shape& shape) {
  if (shape.layout != contract::kLayoutPlain) return {shape.scale_rows, shape.N, 0};
  return {shape.scale_rows, shape.N, shape.groups + (shape.scale_type == Element::kCode8 ? kFactorBytes : 0)};
}

std::uint64_t planes_bytes(const Shape& shape) { return product(planes_dims(shape)); }

std::uint64_t scales_bytes(const Shape& shape) {
  return product(scales_dims(shape)) * static_cast<std::uint64_t>(scale_bytes(shape.scale_type));
}

const char* layout_name(std::int64_t layout) { return contract::kLayoutNames[layout - contract::kLayoutPlain]; }

void check_factors(const Shape& shape, const void* scales, std::int64_t first_output) {
  if (shape.scale_type != Element::kCode8) return;
  constexpr unsigned kExponentMask = 0x7c;  // of the high byte of a float16
  const auto* row = static_cast<const std::uint8_t*>(scales);
  for (std::int64_t i = 0; i < shape.scale_rows * shape.N; ++i, row += kFactorBytes + shape.groups) {
    if ((row[1] & kExponentMask) == kExponentMask) {
      throw std::invalid_argument("scales: expected finite factors, got infinity or NaN in row " +
                                  std::to_string(i / shape.N) + " of output " +
                                  std::to_string(first_output + i % shape.N));
    }
  }
}

std::string to_string(const std::vector<std::int64_t>& dims) {
  std::string text = "[";
  for (std::size_t i = 0; i < dims.size(); ++i) {
    text += (i == 0 ? "" : ", ") + (dims[i] < 0 ? std::string("?") : std::to_string(dims[i]));
  }
  return text + "]";
}

}  // namespace dualbinary
