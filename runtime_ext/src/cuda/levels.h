// Weights as float16: two planes make four levels, {0, a1, a2, a1 + a2} plus the base, chosen by a byte permutation.
//
// Eight weights of a row cost two shifts, two logic operations and eight permutations, at one and a half instructions a
// weight, against the 32 to 256 products that each takes part in. More than two planes are pairs, added in float16.
#pragma once

#include <cstdint>

#include "cuda/packed.h"
#include "cuda/simt/simt.h"

namespace dualbinary::cuda {

template <int P>
inline constexpr int kPairs = (P + 1) / 2;

// Four levels of one row, group and pair of planes, split into low and high bytes. Each is rounded to float16 once.
struct Levels {
  std::uint32_t low;
  std::uint32_t high;
};

DUALBINARY_DEVICE Levels make_levels(float base, float first, float second) {
  const std::uint32_t lower = simt::f16_pair(base, base + first);
  const std::uint32_t upper = simt::f16_pair(base + second, base + first + second);
  return {simt::permute_bytes(lower, upper, 0x6420), simt::permute_bytes(lower, upper, 0x7531)};
}

// Of rows r and r + 8 of a row tile.
template <int P>
struct RowLevels {
  Levels of[kPairs<P>][2];
};

template <int P>
DUALBINARY_DEVICE RowLevels<P> load_levels(const PackedWeight& weight, int row_tile, int group, int r) {
  Pair scales[P + 1];
  const simt::GlobalArray lines{static_cast<const std::uint8_t*>(weight.scales) + line_offset(weight, row_tile, group)};
  for_scale_type(weight.scale_type, [&]<Scales kType>() { read_scales<P, kType>(weight, lines, row_tile, r, scales); });
  RowLevels<P> levels;
  Pair base = scales[P];
  DUALBINARY_UNROLL
  for (int pair = 0; pair < kPairs<P>; ++pair) {
    const Pair first = scales[2 * pair];
    const Pair second = 2 * pair + 1 < P ? scales[2 * pair + 1 < P ? 2 * pair + 1 : 0] : Pair{0, 0};
    levels.of[pair][0] = make_levels(base.low, first.low, second.low);
    levels.of[pair][1] = make_levels(base.high, first.high, second.high);
    base = {0, 0};  // it counts once
  }
  return levels;
}

// Eight weights of part `s`, two in a word: the inputs j of packed.h in their order. `second` is 0 for a lone plane.
DUALBINARY_DEVICE void dequantize_part(const Levels& levels, std::uint32_t first, std::uint32_t second, int s,
                                       std::uint32_t (&words)[4]) {
  const std::uint32_t choice = (first >> s & 0x11111111u) | (second >> s & 0x11111111u) << 1;
  DUALBINARY_UNROLL
  for (int i = 0; i < 2; ++i) {
    const std::uint32_t four = choice >> 16 * i & 0xffffu;
    const std::uint32_t low = simt::permute_bytes(levels.low, 0, four);
    const std::uint32_t high = simt::permute_bytes(levels.high, 0, four);
    words[2 * i] = simt::permute_bytes(low, high, 0x5140);
    words[2 * i + 1] = simt::permute_bytes(low, high, 0x7362);
  }
}

// A of the two float16 products that take part `s`: `words` are those of the lane's tile (tile_ring.h).
template <int P>
DUALBINARY_DEVICE void dequantize_fragments(const RowLevels<P>& levels, const std::uint32_t (&words)[2 * P], int s,
                                            std::uint32_t (&a)[2][4]) {
  DUALBINARY_UNROLL
  for (int half = 0; half < 2; ++half) {
    std::uint32_t row[4];
    dequantize_part(levels.of[0][half], words[half], P > 1 ? words[P > 1 ? 2 + half : 0] : 0, s, row);
    DUALBINARY_UNROLL
    for (int pair = 1; pair < kPairs<P>; ++pair) {
      std::uint32_t more[4];
      const int p = 2 * pair;
      dequantize_part(levels.of[pair][half], words[2 * p + half],
                      p + 1 < P ? words[p + 1 < P ? 2 * p + 2 + half : 0] : 0, s, more);
      DUALBINARY_UNROLL
      for (int i = 0; i < 4; ++i) row[i] = simt::add_f16_pairs(row[i], more[i]);
    }
    // Words 0 and 2 hold the first two columns of a fragment, 1 and 3 those eight columns further.
    DUALBINARY_UNROLL
    for (int i = 0; i < 4; ++i) a[i / 2][half + 2 * (i % 2)] = row[i];
  }
}

}  // namespace dualbinary::cuda
