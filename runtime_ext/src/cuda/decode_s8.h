// Few rows by the matrix instruction of bytes: rows of X are the columns of B, a plane's bits the bytes 0 and 128 of A.
//
// For 5 to 16 rows, and for one to four where the binary instruction is slow (compute capability 10 and up). One
// instruction takes 32 inputs, a part of a tile, so that a group ends between two of them. The integers' 16 bits are a
// signed high byte and an unsigned low one.
#pragma once

#include <cstdint>

#include "cuda/decode.h"

namespace dualbinary::cuda {

// kSets: 1 for integers of 8 bits, 2 for 16. kBlocks: of eight rows of X.
template <int P, int kSets, int kBlocks>
struct ByteMethod {
  static constexpr int kPlanes = P;
  static constexpr int kRows = 8 * kBlocks;
  static constexpr int kBits = 8 * kSets;
  // [set][first or second bytes][row][t][part]: a lane reads the four parts at once, and eight lanes 128 bytes in a
  // row.
  static constexpr int kHalfWords = kRows * 4 * kParts;
  static constexpr int kTileWords = kSets * 2 * kHalfWords;

  struct Sums {
    float of[kBlocks][4];  // as a fragment D
  };

  DUALBINARY_DEVICE static void fill(const int (&q)[kLaneInputs], int row, int t, std::uint32_t* operands) {
    DUALBINARY_UNROLL
    for (int set = 0; set < kSets; ++set) {
      std::uint32_t words[8];
      to_bytes(q, set, words);
      DUALBINARY_UNROLL
      for (int half = 0; half < 2; ++half) {
        auto* to = reinterpret_cast<simt::Words4*>(operands + (2 * set + half) * kHalfWords) + 4 * row + t;
        *to = {{words[4 * half], words[4 * half + 1], words[4 * half + 2], words[4 * half + 3]}};
      }
    }
  }

  DUALBINARY_DEVICE static void multiply(const PackedWeight& weight, int row_tile, int tile, const TileWords<P>& words,
                                         int lane, const std::uint32_t* operands, const float* steps, Sums& sums) {
    const int t = lane % 4;
    DUALBINARY_UNROLL
    for (int block = 0; block < kBlocks; ++block) {
      std::uint32_t b[kSets][2][kParts];
      DUALBINARY_UNROLL
      for (int i = 0; i < 2 * kSets; ++i) {
        const auto* from = reinterpret_cast<const simt::Words4*>(operands + i * kHalfWords);
        const simt::Words4 v = from[4 * (8 * block + lane / 4) + t];
        DUALBINARY_UNROLL
        for (int part = 0; part < kParts; ++part) b[i / 2][i % 2][part] = v.w[part];
      }
      float sum[4] = {};
      DUALBINARY_UNROLL
      for (int c = 0; c <= P; ++c) {
        if (c == P && weight.C == P) break;  // no offset
        const std::uint32_t low = c < P ? words.w[2 * (c < P ? c : 0)] : ~0u;
        const std::uint32_t high = c < P ? words.w[2 * (c < P ? c : 0) + 1] : ~0u;
        add_plane(weight, row_tile, tile, c, low, high, lane, b, sum);
      }
      const float first = steps[8 * block + 2 * t];
      const float second = steps[8 * block + 2 * t + 1];
      DUALBINARY_UNROLL
      for (int i = 0; i < 4; ++i) {
        sums.of[block][i] = simt::multiply_add(i % 2 == 0 ? first : second, sum[i], sums.of[block][i]);
      }
    }
  }

  DUALBINARY_DEVICE static void reduce(const Sums& sums, int lane, float* out) {
    DUALBINARY_UNROLL
    for (int block = 0; block < kBlocks; ++block) {
      DUALBINARY_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int row = 8 * block + 2 * (lane % 4) + i % 2;
        out[row * kTileRows + lane / 4 + 8 * (i / 2)] = sums.of[block][i];
      }
    }
  }

 private:
  // Adds one plane of a tile, group by group.
  DUALBINARY_DEVICE static void add_plane(const PackedWeight& weight, int row_tile, int tile, int c, std::uint32_t low,
                                          std::uint32_t high, int lane, const std::uint32_t (&b)[kSets][2][kParts],
                                          float (&sum)[4]) {
    int d[kSets][4] = {};
    DUALBINARY_UNROLL
    for (int part = 0; part < kParts; ++part) {
      constexpr std::uint32_t kBytes = 0x80808080u;
      // A multiplication is a shift that the other pipe can do.
      const std::uint32_t a[4] = {low * (1u << (7 - part)) & kBytes, high * (1u << (7 - part)) & kBytes,
                                  low * (1u << (3 - part)) & kBytes, high * (1u << (3 - part)) & kBytes};
      if constexpr (kSets == 1) {
        simt::mma_u8<true>(d[0], a, b[0][0][part], b[0][1][part]);
      } else {
        simt::mma_u8<false>(d[0], a, b[0][0][part], b[0][1][part]);
        simt::mma_u8<true>(d[1], a, b[1][0][part], b[1][1][part]);
      }
      const int group = group_of(weight, kParts * tile + part);
      if (part + 1 < kParts && group_of(weight, kParts * tile + part + 1) == group) continue;
      const Pair scales = load_scales(weight, row_tile, group, c, lane / 4);
      DUALBINARY_UNROLL
      for (int i = 0; i < 4; ++i) {
        // Exact: a set bit is 128. At 16 bits the sum is at most 128 * 32767 < 2^22.
        int whole = d[0][i] >> 7;
        if constexpr (kSets == 2) whole += 2 * d[1][i];
        sum[i] = simt::multiply_add(i < 2 ? scales.low : scales.high, simt::small_int_to_float(whole), sum[i]);
        DUALBINARY_UNROLL
        for (int set = 0; set < kSets; ++set) d[set][i] = 0;
      }
    }
  }
};

// Operands of all input tiles and rows, for kernels whose blocks would otherwise make the same many times over.
template <class Method>
DUALBINARY_GLOBAL(kDecodeThreads, 2)
prepare_operands(Activations x, int K, int tiles, std::uint32_t* operands, float* steps) {
  const int unit = simt::block_x() * kDecodeThreads + simt::thread();
  const int t = unit % 4;
  const int tile = unit / 4 % tiles;
  const int row = unit / 4 / tiles;
  int q[kLaneInputs] = {};
  const float step = quantise<Method::kBits>(x, row, row < x.rows ? K : 0, tile, t, q);
  if (row >= Method::kRows) return;
  Method::fill(q, row, t, operands + static_cast<std::int64_t>(tile) * Method::kTileWords);
  if (t == 0) steps[static_cast<std::int64_t>(tile) * Method::kRows + row] = step;
}

}  // namespace dualbinary::cuda
