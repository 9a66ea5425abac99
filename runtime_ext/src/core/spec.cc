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
  return type == Element::kFloat32 ? 4 : 2;
}

std::int64_t blocks(const Shape& shape) { return round_up(shape.N, contract::kBlockRows) / contract::kBlockRows; }

// Bytes of one output block: factors where scales are codes, then scales, zero points and lines of each unit.
std::int64_t block_bytes(const Shape& shape) {
  const std::int64_t scales = shape.scale_rows * contract::kBlockRows;
  const std::int64_t factors = shape.scale_type == Element::kCode8 ? scales * kFactorBytes : 0;
  const std::int64_t zeros = shape.twice_zero == kGroupZeros ? contract::kBlockRows : 0;
  const std::int64_t head = shape.halves * (scales * scale_bytes(shape.scale_type) + zeros);
  const std::int64_t lines = shape.halves * shape.planes * shape.group_size / 8 * contract::kBlockRows;
  return round_up(factors, contract::kBlockAlignment) +
         shape.units * (round_up(head, contract::kBlockAlignment) + lines);
}

// Groups of an output in layout codes: those of its inputs, and behind them as many as hold a zero point of each.
std::int64_t code_groups(const Shape& shape) {
  const bool zeros = shape.twice_zero == kGroupZeros;
  return shape.groups + (zeros ? round_up(shape.groups, shape.group_size) / shape.group_size : 0);
}

std::uint64_t product(const std::vector<std::int64_t>& dims) {
  std::uint64_t result = 1;
  for (const std::int64_t dim : dims) result *= static_cast<std::uint64_t>(dim);
  return result;
}

void check_range(const char* name, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value < low || value > high) refuse(name, std::to_string(low) + " to " + std::to_string(high), value);
}

// `most` is the largest zero point in halves of a step, and `planes` says of which planes.
void check_zero(const Spec& spec, std::int64_t most, const std::string& planes) {
  using namespace contract;
  if (spec.levels == kFreeLevels) {
    if (spec.twice_zero != 0) refuse(kAttrTwiceZero, "0 with free levels", spec.twice_zero);
  } else if (spec.twice_zero < kGroupZeros || spec.twice_zero > most) {
    refuse(kAttrTwiceZero,
           "0 to " + std::to_string(most) + planes + ", or " + std::to_string(kGroupZeros) +
               " for a zero point of each group",
           spec.twice_zero);
  }
}

// What layout codes holds; `got` says what came instead.
[[noreturn]] void refuse_codes(const std::string& got) {
  using namespace contract;
  throw std::invalid_argument(std::string(kAttrLayout) + ": expected even levels of 2, 4 or 8 planes for " +
                              std::to_string(kLayoutCodes) + " (" + layout_name(kLayoutCodes) + "), got " + got);
}

void check_group_size(const Spec& spec) {
  using namespace contract;
  const bool even = spec.levels == kEvenLevels;
  const bool half = spec.group_size == kHalfGroup;
  if (!(half && even) && (spec.group_size < kGroupMultiple || spec.group_size % kGroupMultiple != 0)) {
    const std::string smaller = half || even ? ", or " + std::to_string(kHalfGroup) + " with even levels" : "";
    refuse(kAttrGroupSize, "a positive multiple of " + std::to_string(kGroupMultiple) + smaller, spec.group_size);
  }
  const std::int64_t largest = round_up(spec.K, kGroupMultiple);
  if (spec.group_size > largest) {
    refuse(kAttrGroupSize, "at most " + std::to_string(largest) + " for K = " + std::to_string(spec.K),
           spec.group_size);
  }
}

void check_scale_rows(const Spec& spec) {
  const std::int64_t rows = spec.levels == kEvenLevels ? 1 : spec.planes;
  check_range("rows of scales", spec.scale_rows, rows, rows + 1);
  if (spec.scale_rows > rows && spec.twice_zero != 0) {
    refuse(contract::kAttrTwiceZero, "0 beside an offset", spec.twice_zero);
  }
}

// One step for all outputs only where one group covers a row, and has nothing else that is its own.
void check_scale_outputs(const Spec& spec, std::int64_t groups) {
  if (spec.scale_outputs == spec.N) return;
  const bool alike = spec.levels == kEvenLevels && groups == 1 && spec.twice_zero != kGroupZeros && !in_blocks(spec);
  if (alike && spec.scale_outputs == 1) return;
  refuse("outputs of scales",
         std::to_string(spec.N) + (alike ? " or 1"
                                         : ", or 1 in layout plain or codes for even levels of one group a row without "
                                           "a zero point of its own"),
         spec.scale_outputs);
}

}  // namespace

void check_attributes(const Spec& spec) {
  using namespace contract;
  check_range(kAttrK, spec.K, kAttrKMinimum, kMaxDimension);
  check_range(kAttrN, spec.N, kAttrNMinimum, kMaxDimension);
  if (spec.levels != kFreeLevels && spec.levels != kEvenLevels) {
    refuse(kAttrLevels, "0 (free) or 1 (even)", spec.levels);
  }
  check_group_size(spec);
  check_zero(spec, 2 * ((1 << kMaxPlanes) - 1), "");  // what P allows is known when the planes are
  if (spec.layout < kLayoutPlain || spec.layout >= kLayoutPlain + kLayouts) {
    refuse(kAttrLayout, "one of " + known_layouts() + ", the stored layouts that this library knows", spec.layout);
  }
  if (spec.layout == kLayoutCodes && spec.levels != kEvenLevels) refuse_codes("free levels");
  if (spec.accuracy_level != kAttrAccuracyLevel0 && spec.accuracy_level != kAttrAccuracyLevel4) {
    refuse(kAttrAccuracyLevel, "0 or 4", spec.accuracy_level);
  }
}

Shape checked_shape(const Spec& spec) {
  check_attributes(spec);
  check_range("number of planes", spec.planes, contract::kMinPlanes, contract::kMaxPlanes);
  if (spec.layout == contract::kLayoutCodes && spec.planes != 2 && spec.planes != 4 && spec.planes != 8) {
    refuse_codes(std::to_string(spec.planes) + (spec.planes == 1 ? " plane" : " planes"));
  }
  check_zero(spec, 2 * ((1 << spec.planes) - 1), " for " + std::to_string(spec.planes) + " planes");
  check_scale_rows(spec);
  const std::int64_t padded = round_up(spec.K, spec.group_size);
  const std::int64_t groups = padded / spec.group_size;
  check_scale_outputs(spec, groups);
  const std::int64_t halves = spec.group_size == contract::kHalfGroup ? 2 : 1;
  const std::int64_t units = round_up(groups, halves) / halves;
  const std::int64_t unit_size = halves * spec.group_size;
  std::int64_t segment = kMaxSegment;
  while (unit_size % segment != 0) segment -= contract::kGroupMultiple;
  const std::int64_t zero_bytes = spec.twice_zero == kGroupZeros ? round_up(groups, 8) / 8 : 0;
  return {spec, groups, padded / 8 + zero_bytes, halves, units, segment, units * unit_size / segment};
}

void check_cuda_limits(const Shape& shape) {
  using namespace contract;
  constexpr char kElsewhere[] = "; use the CPU provider";
  const auto refuse_on_cuda = [](const char* name, const std::string& expected, const std::string& got) {
    throw std::invalid_argument(std::string(name) + ": expected " + expected + " on a CUDA device, got " + got);
  };
  if (in_blocks(shape)) {
    const auto numbered = [](std::int64_t layout) { return std::to_string(layout) + " (" + layout_name(layout) + ")"; };
    refuse_on_cuda(kAttrLayout, numbered(kLayoutPlain) + " or " + numbered(kLayoutCodes),
                   numbered(shape.layout) + ", which is for CPUs; run `dualbinary relayout FILE OUT --layout plain`");
  }
  if (shape.group_size % kGroupMultiple != 0) {
    refuse_on_cuda(kAttrGroupSize, "a multiple of " + std::to_string(kGroupMultiple),
                   std::to_string(shape.group_size) + kElsewhere);
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
  if (in_blocks(shape)) return {blocks(shape), block_bytes(shape)};
  if (shape.layout == contract::kLayoutCodes) {
    return {shape.N, code_groups(shape), shape.group_size * shape.planes / 8};
  }
  return {shape.planes, shape.N, shape.row_bytes};
}

std::vector<std::int64_t> scales_dims(const Shape& shape) {
  if (in_blocks(shape)) return {shape.scale_rows, shape.N, 0};
  const std::int64_t columns = shape.groups + (shape.scale_type == Element::kCode8 ? kFactorBytes : 0);
  return {shape.scale_rows, shape.scale_outputs, columns};
}

std::uint64_t planes_bytes(const Shape& shape) { return product(planes_dims(shape)); }

std::uint64_t scales_bytes(const Shape& shape) {
  return product(scales_dims(shape)) * static_cast<std::uint64_t>(scale_bytes(shape.scale_type));
}

bool in_blocks(const Spec& spec) {
  return spec.layout != contract::kLayoutPlain && spec.layout != contract::kLayoutCodes;
}

const char* layout_name(std::int64_t layout) { return contract::kLayoutNames[layout - contract::kLayoutPlain]; }

void check_factors(const Shape& shape, const void* scales, std::int64_t first_output) {
  if (shape.scale_type != Element::kCode8) return;
  constexpr unsigned kExponentMask = 0x7c;  // of the high byte of a float16
  const auto* row = static_cast<const std::uint8_t*>(scales);
  for (std::int64_t i = 0; i < shape.scale_rows * shape.scale_outputs; ++i, row += kFactorBytes + shape.groups) {
    if ((row[1] & kExponentMask) == kExponentMask) {
      throw std::invalid_argument("scales: expected finite factors, got infinity or NaN in row " +
                                  std::to_string(i / shape.scale_outputs) + " of output " +
                                  std::to_string(first_output + i % shape.scale_outputs));
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
