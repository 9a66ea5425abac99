// Parts of the kernels of many rows: a weight's rows dequantized to fragments A, X in shared memory as B, and outputs.
//
// The product is computed as W X^T: outputs are the rows of the matrix instruction and tokens its columns, so that the
// weights go from global memory through registers, and only X passes through shared memory. X comes in stages of 64
// inputs by asynchronous copies: a stage is [tokens][64] in float16, 128 bytes a token, whose eight chunks of 16 bytes
// are permuted by the token's number (the 128-byte swizzle of wgmma), so that reads of eight tokens meet no bank twice.
#pragma once

#include <cstdint>

#include "cuda/activations.h"
#include "cuda/activations_f16.h"
#include "cuda/exact.h"
#include "cuda/levels.h"
#include "cuda/packed.h"
#include "cuda/simt/simt.h"
#include "cuda/tile_ring.h"

namespace dualbinary::cuda {

inline constexpr int kStageInputs = 64;
inline constexpr int kStageParts = kStageInputs / kPartInputs;
inline constexpr int kStagesOfTile = kTileInputs / kStageInputs;
inline constexpr int kTokenBytes = kStageInputs * 2;
inline constexpr int kChunkBytes = 16;
inline constexpr int kChunks = kTokenBytes / kChunkBytes;

struct PrefillArguments {
  PackedWeight weight;
  F16Rows tokens;
  Activations x;  // for results that are not finite
  void* y;
};

// Byte in a stage of chunk `chunk` of token `token`.
DUALBINARY_DEVICE int chunk_offset(int token, int chunk) {
  return token * kTokenBytes + (chunk ^ (token & 7)) * kChunkBytes;
}

// Starts the copies of inputs [input, input + 64) of kTokens tokens to `stage`. What lies outside of X becomes zeros.
template <int kTokens, int kThreads>
DUALBINARY_DEVICE void copy_stage(const PrefillArguments& a, int first_token, int input, std::uint8_t* stage,
                                  int thread) {
  // A thread has one chunk of every kStep-th token; as kStep is a multiple of eight, the swizzle is the same for all.
  constexpr int kStep = kThreads / kChunks;
  static_assert(kStep % 8 == 0 && kTokens % kStep == 0);
  const int chunk = thread % kChunks;
  const int token = thread / kChunks;
  const int k = input + chunk * (kChunkBytes / 2);
  // A stride of a multiple of eight makes every chunk whole: it has only zeros, or nothing, past K.
  const int left = k < a.weight.K ? a.tokens.tokens - first_token - token : 0;
  const std::uint16_t* from = a.tokens.data;
  if (left > 0) from += (first_token + token) * a.tokens.stride + k;
  std::uint8_t* to = stage + chunk_offset(token, chunk);
  DUALBINARY_UNROLL
  for (int i = 0; i < kTokens / kStep; ++i) {
    const bool inside = i * kStep < left;
    simt::copy_async(to + i * kStep * kTokenBytes, inside ? from : a.tokens.data, inside);
    if (inside) from += kStep * a.tokens.stride;
  }
}

// A lane's words of one tile, from the weight itself.
template <int P>
DUALBINARY_DEVICE TileWords<P> load_tile(const PackedWeight& weight, int row_tile, int tile, int lane) {
  const std::int64_t index = (static_cast<std::int64_t>(row_tile) * weight.input_tiles + tile) * simt::kLanes + lane;
  const std::uint32_t* from = weight.planes + index * (2 * P);
  TileWords<P> words;
  if constexpr (P % 2 == 0) {
    DUALBINARY_UNROLL
    for (int i = 0; i < P / 2; ++i) {
      const simt::Words4 v = simt::load_once(reinterpret_cast<const simt::Words4*>(from) + i);
      DUALBINARY_UNROLL
      for (int j = 0; j < 4; ++j) words.w[4 * i + j] = v.w[j];
    }
  } else {
    DUALBINARY_UNROLL
    for (int p = 0; p < P; ++p) {
      const simt::Words2 v = simt::load_once(reinterpret_cast<const simt::Words2*>(from) + p);
      words.w[2 * p] = v.w[0];
      words.w[2 * p + 1] = v.w[1];
    }
  }
  return words;
}

// The levels of a row tile, made again where a group begins.
template <int P>
class RowDequantizer {
 public:
  RowDequantizer() = default;
  // `row_tile` may lie past the last one; it then repeats that, and its outputs are not written.
  DUALBINARY_DEVICE RowDequantizer(const PackedWeight& weight, int row_tile, int lane)
      : row_tile_(row_tile < weight.row_tiles ? row_tile : weight.row_tiles - 1), lane_(lane) {}

  // Words of input tile `tile`; tiles past the end are zeros.
  DUALBINARY_DEVICE TileWords<P> load(const PackedWeight& weight, int tile) const {
    if (tile >= weight.input_tiles) return TileWords<P>{};
    return load_tile<P>(weight, row_tile_, tile, lane_);
  }

  // Fragments A of the two products that take part `s` of the tile.
  DUALBINARY_DEVICE void dequantize(const PackedWeight& weight, const TileWords<P>& words, int tile, int s,
                                    std::uint32_t (&a)[2][4]) {
    const int group = group_of(weight, kParts * tile + s);
    if (group != group_) {
      group_ = group;
      levels_ = load_levels<P>(weight, row_tile_, group, lane_ / 4);
    }
    dequantize_fragments<P>(levels_, words.w, s, a);
  }

 private:
  int row_tile_ = 0;
  int lane_ = 0;
  int group_ = -1;
  RowLevels<P> levels_{};
};

// Sums of a thread block on their way to Y, in shared memory: [token][kRows + kPadding].
inline constexpr int kPadding = 4;

// Puts fragment D of rows `row` + r and tokens 8 `block`.. into `sums`.
template <int kRows, bool kAdd>
DUALBINARY_DEVICE void put_fragment(float* sums, int row, int block, const float (&d)[4], int lane) {
  DUALBINARY_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int token = 8 * block + 2 * (lane % 4) + i % 2;
    float& place = sums[token * (kRows + kPadding) + row + lane / 4 + 8 * (i / 2)];
    place = kAdd ? place + d[i] : d[i];
  }
}

// Writes kRows outputs of kTokens tokens.
template <int kRows, int kTokens, int kThreads>
DUALBINARY_DEVICE void write_tile(const PrefillArguments& a, int first_output, int first_token, const float* sums,
                                  int thread) {
  const bool split = a.tokens.split;
  const int rows_of_x = split ? kTokens / 2 : kTokens;
  const int first_row = split ? first_token / 2 : first_token;
  for (int i = thread; i < rows_of_x * kRows; i += kThreads) {
    const int n = first_output + i % kRows;
    const int row = first_row + i / kRows;
    if (n >= a.weight.N || row >= a.x.rows) continue;
    const float* sum_of = sums + (split ? 2 : 1) * (i / kRows) * (kRows + kPadding) + i % kRows;
    float sum = *sum_of;
    if (split) sum = simt::multiply_add(sum_of[kRows + kPadding], 1.0f / kLowFactor, sum);
    if (a.tokens.row_scale != nullptr) sum *= a.tokens.row_scale[row];
    if (!simt::finite(sum)) sum = static_cast<float>(exact_product(a.weight, a.x, row, n));
    store_value(a.y, a.x.type, static_cast<std::int64_t>(row) * a.weight.N + n, sum);
  }
}

}  // namespace dualbinary::cuda
