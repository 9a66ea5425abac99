// Packed form of a weight on a device: one copy, in the order of the fragments of all matrix instructions at once.
//
// Rows (outputs) come in tiles of 16, inputs in tiles of 128. Of a tile and a plane, lane l of a warp has two words: of
// row l / 4 and of row l / 4 + 8; with t = l % 4, bit 4 j + s of a word is input
//
//     32 s + 16 (j / 4) + 2 t + (j & 1) + 8 (j / 2 & 1)          s = 0..3, j = 0..7
//
//   - As they are, the words are A of mma_b1: its order of inputs does not matter as long as B has the same.
//   - Byte b of (word << 7 - i) & 0x80808080 is bit 8 b + i, that is j = 2 b + i / 4 and s = i % 4. For i = s and s + 4
//     these are A of mma_u8 for the 32 inputs of part s.
//   - (word >> s) & 0x11111111 has in its eight nibbles the eight weights of two A of mma_f16 and wgmma, for the first
//     and second 16 inputs of part s in their natural order, ready to select one of a few levels (levels.h).
//
// A group of the contract has a multiple of 32 inputs, so that each part s of a tile lies in one group.
//
//   planes    uint32 [row tiles][input tiles][32 lanes][P][2 rows]
//   scales    [row tiles][groups][C][8][2]: of rows r and r + 8; as stored, but int8 code - zero where they are codes,
//             and numbers of that type where they are zero points of even levels
//   factors   float [row tiles][C][8][2]: factor / unit; only beside codes
//
// Rows past N and inputs past K have zero bits, and the rows zero scales. After the last scales there is room for
// another tile's groups, unused, so that copies of whole tiles need not look where the row ends.
//
// Even levels keep their one step a group here: read_scales() makes of it the scales of the planes, which kernels use.
#pragma once

#include <cstdint>

#include "contract.h"
#include "cuda/simt/simt.h"

namespace dualbinary::cuda {

inline constexpr int kTileRows = 16;
inline constexpr int kTileInputs = 128;
inline constexpr int kPartInputs = 32;  // a part: what one bit s of every nibble holds
inline constexpr int kParts = kTileInputs / kPartInputs;

// The input of a tile that bit `bit` of a word of the lanes with l % 4 = t holds.
DUALBINARY_HOST_DEVICE constexpr int input_of_bit(int t, int bit) {
  const int s = bit % 4;
  const int j = bit / 4;
  return kPartInputs * s + 16 * (j / 4) + 2 * t + (j & 1) + 8 * (j / 2 & 1);
}

enum class Scales { kFloat16, kFloat32, kBfloat16, kCodes };

// Where the scales of the plane of ones come from: it has none; the last line, an offset; or, of even levels, minus the
// step times a zero point, which is the weight's or, in the last line, the group's.
enum class Base { kNone, kOffset, kZero, kGroupZeros };

// A weight as kernels get it, by value. Pointers are to device memory.
struct PackedWeight {
  int K;
  int N;
  int row_tiles;
  int input_tiles;
  int groups;                   // of a row
  int group_parts;              // G / 32
  std::uint32_t group_inverse;  // 2^31 / group_parts, rounded up
  int P;
  int C;  // lines of a group: those of free levels P, of even ones the step; and the base's, where it has one
  Scales scale_type;
  bool even;
  Base base;
  float zero;  // of Base::kZero
  const std::uint32_t* planes;
  const void* scales;
  const float* factors;
};

struct Pair {
  float low;   // of row r
  float high;  // of row r + 8
};

static_assert(contract::kCudaMaxK <= 1 << 20);

// The group of part `part`, counted over the whole row; of a part that lies before the row's last input.
// With so few inputs the product with group_inverse is as good as the division.
DUALBINARY_DEVICE int group_of_input(const PackedWeight& w, int part) {
  return static_cast<int>(simt::multiply_high(static_cast<std::uint32_t>(part) << 1, w.group_inverse));
}

// The same for any part of a tile. Parts of the padding count to the last group: their bits are 0.
DUALBINARY_DEVICE int group_of(const PackedWeight& w, int part) {
  const int group = group_of_input(w, part);
  return group < w.groups ? group : w.groups - 1;
}

// The first part after those of `group`.
DUALBINARY_DEVICE int end_of_group(const PackedWeight& w, int group) {
  return group + 1 < w.groups ? (group + 1) * w.group_parts : w.input_tiles * kParts;
}

// Bytes of a line: the scales of one row tile, group and plane. Those of a group's planes, and the groups of a row
// tile, follow one another.
DUALBINARY_HOST_DEVICE constexpr int line_bytes(Scales type) {
  const int scale_bytes = type == Scales::kFloat32 ? 4 : type == Scales::kCodes ? 1 : 2;
  return kTileRows * scale_bytes;
}

DUALBINARY_DEVICE std::int64_t line_offset(const PackedWeight& w, int row_tile, int group) {
  return (static_cast<std::int64_t>(row_tile) * w.groups + group) * w.C * line_bytes(w.scale_type);
}

// Values of rows r and r + 8 of a row tile in line c of a group, wherever that lies.
template <Scales kType, class Array>
DUALBINARY_DEVICE Pair read_line(const PackedWeight& w, const Array& line, int row_tile, int c, int r) {
  if constexpr (kType == Scales::kFloat16) {
    const std::uint32_t both = line.word(r);
    return {simt::f16_to_float(static_cast<std::uint16_t>(both)),
            simt::f16_to_float(static_cast<std::uint16_t>(both >> 16))};
  } else if constexpr (kType == Scales::kBfloat16) {
    const std::uint32_t both = line.word(r);
    return {simt::bf16_to_float(static_cast<std::uint16_t>(both)),
            simt::bf16_to_float(static_cast<std::uint16_t>(both >> 16))};
  } else if constexpr (kType == Scales::kFloat32) {
    const simt::Words2 both = line.words2(r);
    return {simt::float_of(both.w[0]), simt::float_of(both.w[1])};
  } else {
    const std::uint16_t codes = line.u16(r);
    const float* factors = w.factors + ((static_cast<std::int64_t>(row_tile) * w.C + c) * 8 + r) * 2;
    return {static_cast<float>(static_cast<std::int8_t>(codes)) * factors[0],
            static_cast<float>(static_cast<std::int8_t>(codes >> 8)) * factors[1]};
  }
}

// Scales of rows r and r + 8 of a row tile in one group, whose lines are given: those of the P planes, then that of the
// plane of ones, 0 without a base. Of even levels they are 2^p * step and -zero * step: exact, but for a zero point
// times a step of float32.
template <int P, Scales kType, class Array>
DUALBINARY_DEVICE void read_scales(const PackedWeight& w, const Array& lines, int row_tile, int r,
                                   Pair (&scales)[P + 1]) {
  const auto line = [&](int c) { return read_line<kType>(w, lines.after(c * line_bytes(kType)), row_tile, c, r); };
  scales[P] = {0, 0};
  if (!w.even) {
    // All loads first: they wait for memory together.
    DUALBINARY_UNROLL
    for (int c = 0; c <= P; ++c) {
      if (c < P || w.base != Base::kNone) scales[c] = line(c);
    }
    return;
  }
  const Pair step = line(0);
  if (w.base == Base::kOffset || w.base == Base::kGroupZeros) scales[P] = line(1);
  DUALBINARY_UNROLL
  for (int p = 0; p < P; ++p) {
    const auto digit = static_cast<float>(1 << p);
    scales[p] = {digit * step.low, digit * step.high};
  }
  if (w.base == Base::kZero) scales[P] = {w.zero, w.zero};
  if (w.base == Base::kZero || w.base == Base::kGroupZeros) {
    scales[P] = {-scales[P].low * step.low, -scales[P].high * step.high};
  }
}

// Calls body.operator()<type>() for the type of the scales.
template <class Body>
DUALBINARY_DEVICE void for_scale_type(Scales type, const Body& body) {
  if (type == Scales::kFloat16) {
    body.template operator()<Scales::kFloat16>();
  } else if (type == Scales::kFloat32) {
    body.template operator()<Scales::kFloat32>();
  } else if (type == Scales::kBfloat16) {
    body.template operator()<Scales::kBfloat16>();
  } else {
    body.template operator()<Scales::kCodes>();
  }
}

// The value of output n in line c of a group, from the weight itself.
DUALBINARY_DEVICE float load_scale(const PackedWeight& w, int n, int group, int c) {
  const int row_tile = n / kTileRows;
  const std::int64_t offset = line_offset(w, row_tile, group) + c * line_bytes(w.scale_type);
  const simt::GlobalArray line{static_cast<const std::uint8_t*>(w.scales) + offset};
  Pair values;
  for_scale_type(w.scale_type, [&]<Scales kType>() { values = read_line<kType>(w, line, row_tile, c, n % 8); });
  return n % kTileRows < 8 ? values.low : values.high;
}

}  // namespace dualbinary::cuda
