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
//   scales    [row tiles][groups][C][8][2]: of rows r and r + 8; as stored, but int8 code - zero where they are codes
//   factors   float [row tiles][C][8][2]: factor / unit; only beside codes
//
// Rows past N and inputs past K have zero bits, and the rows zero scales. After the last scales there is room for
// another tile's groups, unused, so that copies of whole tiles need not look where the row ends.
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

enum class Scales { kFloat16, kFloat32, kCodes };

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
  int C;  // P, or P+1 with an offset
  Scales scale_type;
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
  const int scale_bytes = type == Scales::kFloat16 ? 2 : type == Scales::kFloat32 ? 4 : 1;
  return kTileRows * scale_bytes;
}

DUALBINARY_DEVICE std::int64_t line_offset(const PackedWeight& w, int row_tile, int group) {
  return (static_cast<std::int64_t>(row_tile) * w.groups + group) * w.C * line_bytes(w.scale_type);
}

// Scales of rows r and r + 8 of a row tile, for plane c, from a line of theirs wherever it lies.
template <Scales kType, class Array>
DUALBINARY_DEVICE Pair read_line(const PackedWeight& w, const Array& line, int row_tile, int c, int r) {
  if constexpr (kType == Scales::kFloat16) {
    const std::uint32_t both = line.word(r);
    return {simt::f16_to_float(static_cast<std::uint16_t>(both)),
            simt::f16_to_float(static_cast<std::uint16_t>(both >> 16))};
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

// Calls body.operator()<type>() for the type of the scales.
template <class Body>
DUALBINARY_DEVICE void for_scale_type(Scales type, const Body& body) {
  if (type == Scales::kFloat16) {
    body.template operator()<Scales::kFloat16>();
  } else if (type == Scales::kFloat32) {
    body.template operator()<Scales::kFloat32>();
  } else {
    body.template operator()<Scales::kCodes>();
  }
}

// Scales from the weight itself. Plane C-1 is the offset, where there is one.
DUALBINARY_DEVICE Pair load_scales(const PackedWeight& w, int row_tile, int group, int c, int r) {
  const std::int64_t offset = line_offset(w, row_tile, group) + c * line_bytes(w.scale_type);
  const simt::GlobalArray line{static_cast<const std::uint8_t*>(w.scales) + offset};
  Pair scales;
  for_scale_type(w.scale_type, [&]<Scales kType>() { scales = read_line<kType>(w, line, row_tile, c, r); });
  return scales;
}

}  // namespace dualbinary::cuda
