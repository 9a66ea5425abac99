#include "core/spec.h"

#include <stdexcept>

#include "contract.h"

namespace dualbinary {
namespace {

static_assert(kFactorBytes == contract::kScaleCodeFactorBytes && kCodeZero == contract::kScaleCodeZero &&
              kCodeUnit == contract::kScaleCodeUnit && kMaxScaleRows == contract::kMaxPlanes + 1);

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

[[noreturn]] void refuse(const char* name, const std::string& expected, std::int64_t got) {
  throw std::invalid_argument(std::string(name) + ": expected " + expected + ", got " + std::to_string(got));
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
  if (spec.layout != kLayoutPlain) {
    refuse(kAttrLayout, std::to_string(kLayoutPlain) + ", the only stored layout that this library knows", spec.layout);
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
  return {.K = spec.K,
          .N = spec.N,
          .group_size = spec.group_size,
          .planes = spec.planes,
          .scale_rows = spec.scale_rows,
          .scale_type = spec.scale_type,
          .groups = padded / spec.group_size,
          .segment_size = segment,
          .segments = padded / segment};
}

std::vector<std::int64_t> planes_dims(const Shape& shape) {
  return {shape.planes, shape.N, shape.groups * shape.group_size / 8};
}

std::vector<std::int64_t> scales_dims(const Shape& shape) {
  return {shape.scale_rows, shape.N, shape.groups + (shape.scale_type == Element::kCode8 ? kFactorBytes : 0)};
}

std::int64_t planes_bytes(const Shape& shape) { return shape.planes * shape.N * (shape.groups * shape.group_size / 8); }

std::int64_t scales_bytes(const Shape& shape) {
  const std::int64_t scales = shape.scale_rows * shape.N * shape.groups;
  if (shape.scale_type == Element::kCode8) return scales + shape.scale_rows * shape.N * kFactorBytes;
  return scales * (shape.scale_type == Element::kFloat16 ? 2 : 4);
}

std::string to_string(const std::vector<std::int64_t>& dims) {
  std::string text = "[";
  for (std::size_t i = 0; i < dims.size(); ++i) {
    text += (i == 0 ? "" : ", ") + (dims[i] < 0 ? std::string("?") : std::to_string(dims[i]));
  }
  return text + "]";
}

}  // namespace dualbinary
