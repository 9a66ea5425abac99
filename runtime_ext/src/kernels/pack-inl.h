// Packed form of a weight: packing and unpacking, generic over the ISA: each orders the nibbles of a line differently.
// Everything is in an unnamed namespace: each ISA file gets a private copy, compiled with its own flags.
//
// A `Policy` has
//
//   kBlockOutputs   outputs of a packed output block
//   pack_line       32 inputs of kBlockOutputs outputs, one 32-bit word per output -> kLineBytes in its order
//   unpack_line     the reverse
//
// Packed output block: for each group its scales [C][kBlockOutputs], rounded up to kAlignment bytes, then for each
// segment of the group its lines [P][segment_size / 32][kLineBytes]. One forward stream. Scales of type kCode8 are
// signed bytes there, code - 128; the block then starts with the factors [C][kBlockOutputs], float16, rounded up as
// well. blocks-inl.h makes float32 scales of them, once for each group.
//
// A packed form is a stored layout of the contract (docs/layouts.md), so a change here is a new layout.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/kernel.h"

namespace dualbinary {
namespace {

constexpr std::size_t kAlignment = 64;  // a cache line, and the widest vector
constexpr int kLineInputs = 32;         // the contract's group_multiple

template <class Policy>
struct PackedLayout {
  static constexpr std::size_t kLineBytes = Policy::kBlockOutputs * kLineInputs / 8;

  static std::size_t element_bytes(Element type) {
    if (type == Element::kCode8) return 1;
    return type == Element::kFloat16 ? 2 : 4;
  }
  static std::size_t scale_row_bytes(Element type) { return Policy::kBlockOutputs * element_bytes(type); }
  static std::size_t scale_bytes(const Shape& shape, Element type) {
    const std::size_t bytes = static_cast<std::size_t>(shape.scale_rows) * scale_row_bytes(type);
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  static std::size_t scale_bytes(const Shape& shape) { return scale_bytes(shape, shape.scale_type); }
  static std::size_t factor_bytes(const Shape& shape) {
    return shape.scale_type == Element::kCode8 ? scale_bytes(shape, Element::kFloat16) : 0;
  }
  static std::size_t segment_bytes(const Shape& shape) {
    return static_cast<std::size_t>(shape.planes * shape.segment_size / kLineInputs) * kLineBytes;
  }
  static std::size_t block_bytes(const Shape& shape) {
    const auto groups = static_cast<std::size_t>(shape.groups);
    const auto segments = static_cast<std::size_t>(shape.segments);
    return factor_bytes(shape) + groups * scale_bytes(shape) + segments * segment_bytes(shape);
  }
};

template <class Policy>
void pack_scales(const Shape& shape, const Stored& stored, std::int64_t n0, std::int64_t rows, std::int64_t group,
                 std::uint8_t* out) {
  const std::size_t element = PackedLayout<Policy>::element_bytes(shape.scale_type);
  const auto* scales = static_cast<const std::uint8_t*>(stored.scales);
  std::memset(out, 0, PackedLayout<Policy>::scale_bytes(shape));
  for (std::int64_t c = 0; c < shape.scale_rows; ++c) {
    std::uint8_t* row = out + static_cast<std::size_t>(c) * PackedLayout<Policy>::scale_row_bytes(shape.scale_type);
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t output = c * shape.N + n0 + r;
      if (shape.scale_type == Element::kCode8) {
        const std::uint8_t code = scales[output * (kFactorBytes + shape.groups) + kFactorBytes + group];
        row[r] = static_cast<std::uint8_t>(code - kCodeZero);
        continue;
      }
      const auto index = static_cast<std::size_t>(output * shape.groups + group);
      std::memcpy(row + static_cast<std::size_t>(r) * element, scales + index * element, element);
    }
  }
}

template <class Policy>
void pack_factors(const Shape& shape, const Stored& stored, std::int64_t n0, std::int64_t rows, std::uint8_t* out) {
  const auto* scales = static_cast<const std::uint8_t*>(stored.scales);
  std::memset(out, 0, PackedLayout<Policy>::factor_bytes(shape));
  for (std::int64_t c = 0; c < shape.scale_rows; ++c) {
    for (std::int64_t r = 0; r < rows; ++r) {
      std::memcpy(out + (c * Policy::kBlockOutputs + r) * kFactorBytes,
                  scales + (c * shape.N + n0 + r) * (kFactorBytes + shape.groups), kFactorBytes);
    }
  }
}

template <class Policy>
void pack_block(const Shape& shape, const Stored& stored, std::int64_t block, std::uint8_t* packed) {
  const std::int64_t n0 = block * Policy::kBlockOutputs;
  const std::int64_t rows = shape.N - n0 < Policy::kBlockOutputs ? shape.N - n0 : Policy::kBlockOutputs;
  const std::int64_t row_bytes = shape.groups * shape.group_size / 8;
  const std::int64_t lines = shape.segment_size / kLineInputs;
  const std::int64_t group_segments = shape.group_size / shape.segment_size;
  std::uint32_t words[Policy::kBlockOutputs] = {};  // rows past N stay zero
  if (shape.scale_type == Element::kCode8) {
    pack_factors<Policy>(shape, stored, n0, rows, packed);
    packed += PackedLayout<Policy>::factor_bytes(shape);
  }
  for (std::int64_t s = 0; s < shape.segments; ++s) {
    if (s % group_segments == 0) {
      pack_scales<Policy>(shape, stored, n0, rows, s / group_segments, packed);
      packed += PackedLayout<Policy>::scale_bytes(shape);
    }
    for (std::int64_t p = 0; p < shape.planes; ++p) {
      const std::uint8_t* plane = stored.planes + (p * shape.N + n0) * row_bytes + s * shape.segment_size / 8;
      for (std::int64_t line = 0; line < lines; ++line) {
        for (std::int64_t r = 0; r < rows; ++r) std::memcpy(words + r, plane + r * row_bytes + line * 4, 4);
        Policy::pack_line(words, packed);
        packed += PackedLayout<Policy>::kLineBytes;
      }
    }
  }
}

template <class Policy>
void unpack_scales(const Shape& shape, const std::uint8_t* packed, std::int64_t group, std::uint8_t* scales) {
  const std::size_t element = PackedLayout<Policy>::element_bytes(shape.scale_type);
  for (std::int64_t i = 0; i < shape.scale_rows * Policy::kBlockOutputs; ++i) {
    if (shape.scale_type == Element::kCode8) {
      scales[i * (kFactorBytes + shape.groups) + kFactorBytes + group] =
          static_cast<std::uint8_t>(packed[i] + kCodeZero);
      continue;
    }
    std::memcpy(scales + static_cast<std::size_t>(i * shape.groups + group) * element,
                packed + static_cast<std::size_t>(i) * element, element);
  }
}

template <class Policy>
void unpack_block(const Shape& shape, const std::uint8_t* packed, const Unpacked& out) {
  const std::int64_t row_bytes = shape.groups * shape.group_size / 8;
  const std::int64_t lines = shape.segment_size / kLineInputs;
  const std::int64_t group_segments = shape.group_size / shape.segment_size;
  std::uint32_t words[Policy::kBlockOutputs];
  if (shape.scale_type == Element::kCode8) {
    for (std::int64_t i = 0; i < shape.scale_rows * Policy::kBlockOutputs; ++i) {
      std::memcpy(out.scales + i * (kFactorBytes + shape.groups), packed + i * kFactorBytes, kFactorBytes);
    }
    packed += PackedLayout<Policy>::factor_bytes(shape);
  }
  for (std::int64_t s = 0; s < shape.segments; ++s) {
    if (s % group_segments == 0) {
      unpack_scales<Policy>(shape, packed, s / group_segments, out.scales);
      packed += PackedLayout<Policy>::scale_bytes(shape);
    }
    for (std::int64_t p = 0; p < shape.planes; ++p) {
      std::uint8_t* plane = out.planes + p * Policy::kBlockOutputs * row_bytes + s * shape.segment_size / 8;
      for (std::int64_t line = 0; line < lines; ++line) {
        Policy::unpack_line(packed, words);
        for (std::int64_t r = 0; r < Policy::kBlockOutputs; ++r) {
          std::memcpy(plane + r * row_bytes + line * 4, words + r, 4);
        }
        packed += PackedLayout<Policy>::kLineBytes;
      }
    }
  }
}

}  // namespace
}  // namespace dualbinary
