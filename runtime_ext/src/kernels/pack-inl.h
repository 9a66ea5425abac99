// Packed form of a weight: packing and unpacking, generic over the ISA: each orders the nibbles of a line differently.
// Everything is in an unnamed namespace: each ISA file gets a private copy, compiled with its own flags.
//
// A `Policy` has
//
//   kBlockOutputs   outputs of a packed output block
//   pack_line       32 inputs of kBlockOutputs outputs, one 32-bit word per output -> kLineBytes in its order
//   unpack_line     the reverse
//
// Packed output block: for each unit, which is a group, or two of 16 inputs, its head, rounded up to kAlignment bytes:
// scales [halves][C][kBlockOutputs], and zero points [halves][kBlockOutputs], a byte each, where groups have them. Then
// for each segment of the unit its lines [P][segment_size / 32][kLineBytes]. One forward stream. Scales of type kCode8
// are signed bytes there, code - 128; the block then starts with the factors [C][kBlockOutputs], float16, rounded up as
// well. blocks-inl.h makes float32 scales of them, once for each unit.
//
// A packed form is a stored layout of the contract (docs/layouts.md), so a change here is a new layout.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/kernel.h"

namespace dualbinary {
namespace {

constexpr std::size_t kAlignment = 64;       // a cache line, and the widest vector
constexpr int kLineInputs = 32;              // the contract's group_multiple
constexpr int kWordBytes = kLineInputs / 8;  // of one output in a line

template <class Policy>
struct PackedLayout {
  static constexpr std::size_t kLineBytes = Policy::kBlockOutputs * kLineInputs / 8;

  static std::size_t element_bytes(Element type) {
    if (type == Element::kCode8) return 1;
    return type == Element::kFloat32 ? 4 : 2;
  }
  static std::size_t scale_row_bytes(Element type) { return Policy::kBlockOutputs * element_bytes(type); }
  static std::size_t scale_row_bytes(const Shape& shape) { return scale_row_bytes(shape.scale_type); }
  static std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }
  // Where the zero points of a head are: behind its scales.
  static std::size_t zeros_at(const Shape& shape) {
    return static_cast<std::size_t>(shape.halves * shape.scale_rows) * scale_row_bytes(shape);
  }
  // Of the head of a unit.
  static std::size_t head_bytes(const Shape& shape) {
    const std::int64_t zeros = shape.twice_zero == kGroupZeros ? shape.halves * Policy::kBlockOutputs : 0;
    return aligned(zeros_at(shape) + static_cast<std::size_t>(zeros));
  }
  static std::size_t factor_bytes(const Shape& shape) {
    if (shape.scale_type != Element::kCode8) return 0;
    return aligned(static_cast<std::size_t>(shape.scale_rows * Policy::kBlockOutputs * kFactorBytes));
  }
  static std::size_t segment_bytes(const Shape& shape) {
    return static_cast<std::size_t>(shape.planes * shape.segment_size / kLineInputs) * kLineBytes;
  }
  static std::size_t block_bytes(const Shape& shape) {
    const auto units = static_cast<std::size_t>(shape.units);
    const auto segments = static_cast<std::size_t>(shape.segments);
    return factor_bytes(shape) + units * head_bytes(shape) + segments * segment_bytes(shape);
  }
};

// Row of the stored scales of row c of output n.
inline std::int64_t scales_row(const Shape& shape, std::int64_t c, std::int64_t n) {
  return c * shape.scale_outputs + (shape.scale_outputs == 1 ? 0 : n);
}

template <class Policy>
void pack_scales(const Shape& shape, const Stored& stored, std::int64_t n0, std::int64_t rows, std::int64_t group,
                 std::uint8_t* out) {
  const std::size_t element = PackedLayout<Policy>::element_bytes(shape.scale_type);
  const auto* scales = static_cast<const std::uint8_t*>(stored.scales);
  for (std::int64_t c = 0; c < shape.scale_rows; ++c) {
    std::uint8_t* row = out + static_cast<std::size_t>(c) * PackedLayout<Policy>::scale_row_bytes(shape);
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t output = scales_row(shape, c, n0 + r);
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

// Bytes of a plane's row before the bits of the zero points.
inline std::int64_t bits_end(const Shape& shape) { return shape.groups * shape.group_size / 8; }

inline void pack_zeros(const Shape& shape, const Stored& stored, std::int64_t n0, std::int64_t rows, std::int64_t group,
                       std::uint8_t* out) {
  for (std::int64_t p = 0; p < shape.planes; ++p) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::uint8_t* bits = stored.planes + (p * shape.N + n0 + r) * shape.row_bytes + bits_end(shape);
      out[r] |= static_cast<std::uint8_t>((bits[group / 8] >> (group % 8) & 1) << p);
    }
  }
}

template <class Policy>
void pack_head(const Shape& shape, const Stored& stored, std::int64_t n0, std::int64_t rows, std::int64_t unit,
               std::uint8_t* out) {
  using Layout = PackedLayout<Policy>;
  std::memset(out, 0, Layout::head_bytes(shape));
  for (std::int64_t half = 0; half < shape.halves; ++half) {
    const std::int64_t group = unit * shape.halves + half;
    if (group == shape.groups) break;  // the last one lacks its pair
    const auto before = static_cast<std::size_t>(half * shape.scale_rows) * Layout::scale_row_bytes(shape);
    pack_scales<Policy>(shape, stored, n0, rows, group, out + before);
    if (shape.twice_zero != kGroupZeros) continue;
    pack_zeros(shape, stored, n0, rows, group, out + Layout::zeros_at(shape) + half * Policy::kBlockOutputs);
  }
}

template <class Policy>
void pack_factors(const Shape& shape, const Stored& stored, std::int64_t n0, std::int64_t rows, std::uint8_t* out) {
  const auto* scales = static_cast<const std::uint8_t*>(stored.scales);
  std::memset(out, 0, PackedLayout<Policy>::factor_bytes(shape));
  for (std::int64_t c = 0; c < shape.scale_rows; ++c) {
    for (std::int64_t r = 0; r < rows; ++r) {
      std::memcpy(out + (c * Policy::kBlockOutputs + r) * kFactorBytes,
                  scales + scales_row(shape, c, n0 + r) * (kFactorBytes + shape.groups), kFactorBytes);
    }
  }
}

template <class Policy>
void pack_block(const Shape& shape, const Stored& stored, std::int64_t block, std::uint8_t* packed) {
  const std::int64_t n0 = block * Policy::kBlockOutputs;
  const std::int64_t rows = shape.N - n0 < Policy::kBlockOutputs ? shape.N - n0 : Policy::kBlockOutputs;
  const std::int64_t lines = shape.segment_size / kLineInputs;
  const std::int64_t unit_segments = shape.segments / shape.units;
  std::uint32_t words[Policy::kBlockOutputs] = {};  // rows past N stay zero
  if (shape.scale_type == Element::kCode8) {
    pack_factors<Policy>(shape, stored, n0, rows, packed);
    packed += PackedLayout<Policy>::factor_bytes(shape);
  }
  for (std::int64_t s = 0; s < shape.segments; ++s) {
    if (s % unit_segments == 0) {
      pack_head<Policy>(shape, stored, n0, rows, s / unit_segments, packed);
      packed += PackedLayout<Policy>::head_bytes(shape);
    }
    for (std::int64_t p = 0; p < shape.planes; ++p) {
      const std::uint8_t* plane = stored.planes + (p * shape.N + n0) * shape.row_bytes;
      for (std::int64_t line = 0; line < lines; ++line) {
        const std::int64_t at = (s * lines + line) * kWordBytes;
        if (at + kWordBytes > bits_end(shape)) {  // half a line: the last group of 16 lacks its pair
          for (std::int64_t r = 0; r < rows; ++r) words[r] = 0;
          for (std::int64_t r = 0; r < rows; ++r)
            std::memcpy(words + r, plane + r * shape.row_bytes + at, kWordBytes / 2);
        } else {
          for (std::int64_t r = 0; r < rows; ++r) std::memcpy(words + r, plane + r * shape.row_bytes + at, kWordBytes);
        }
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

inline void unpack_zeros(const Shape& shape, std::int64_t outputs, const std::uint8_t* zeros, std::int64_t group,
                         std::uint8_t* planes) {
  for (std::int64_t p = 0; p < shape.planes; ++p) {
    for (std::int64_t r = 0; r < outputs; ++r) {
      std::uint8_t& bits = planes[(p * outputs + r) * shape.row_bytes + bits_end(shape) + group / 8];
      if (group % 8 == 0) bits = 0;
      bits |= static_cast<std::uint8_t>((zeros[r] >> p & 1) << (group % 8));
    }
  }
}

template <class Policy>
void unpack_head(const Shape& shape, const std::uint8_t* packed, std::int64_t unit, const Unpacked& out) {
  using Layout = PackedLayout<Policy>;
  for (std::int64_t half = 0; half < shape.halves; ++half) {
    const std::int64_t group = unit * shape.halves + half;
    if (group == shape.groups) break;
    const auto before = static_cast<std::size_t>(half * shape.scale_rows) * Layout::scale_row_bytes(shape);
    unpack_scales<Policy>(shape, packed + before, group, out.scales);
    if (shape.twice_zero != kGroupZeros) continue;
    const std::uint8_t* zeros = packed + Layout::zeros_at(shape) + half * Policy::kBlockOutputs;
    unpack_zeros(shape, Policy::kBlockOutputs, zeros, group, out.planes);
  }
}

template <class Policy>
void unpack_block(const Shape& shape, const std::uint8_t* packed, const Unpacked& out) {
  const std::int64_t lines = shape.segment_size / kLineInputs;
  const std::int64_t unit_segments = shape.segments / shape.units;
  std::uint32_t words[Policy::kBlockOutputs];
  if (shape.scale_type == Element::kCode8) {
    for (std::int64_t i = 0; i < shape.scale_rows * Policy::kBlockOutputs; ++i) {
      std::memcpy(out.scales + i * (kFactorBytes + shape.groups), packed + i * kFactorBytes, kFactorBytes);
    }
    packed += PackedLayout<Policy>::factor_bytes(shape);
  }
  for (std::int64_t s = 0; s < shape.segments; ++s) {
    if (s % unit_segments == 0) {
      unpack_head<Policy>(shape, packed, s / unit_segments, out);
      packed += PackedLayout<Policy>::head_bytes(shape);
    }
    for (std::int64_t p = 0; p < shape.planes; ++p) {
      std::uint8_t* plane = out.planes + p * Policy::kBlockOutputs * shape.row_bytes;
      for (std::int64_t line = 0; line < lines; ++line) {
        const std::int64_t at = (s * lines + line) * kWordBytes;
        const std::size_t bytes = at + kWordBytes > bits_end(shape) ? kWordBytes / 2 : kWordBytes;
        Policy::unpack_line(packed, words);
        for (std::int64_t r = 0; r < Policy::kBlockOutputs; ++r) {
          std::memcpy(plane + r * shape.row_bytes + at, words + r, bytes);
        }
        packed += PackedLayout<Policy>::kLineBytes;
      }
    }
  }
}

}  // namespace
}  // namespace dualbinary
