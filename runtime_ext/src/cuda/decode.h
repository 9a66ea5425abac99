// Products with few rows: bound by the read of the weight, which goes from memory to registers as fragments.
//
// A block of eight warps computes one row tile after another; the warps share its input tiles and add up at the end, in
// a fixed order. The activations are integers (activations.h) in shared memory, laid out as B of a matrix instruction;
// where they do not all fit, slice by slice. What the matrix instruction is, a Method says:
//
//   kRows                  rows of X that it takes
//   kTileWords             32-bit words of shared memory for the operands of an input tile
//   fill(...)              writes the operands of 32 inputs of a row
//   Sums, multiply(...)    sums of a lane, and adds a tile to them
//   reduce(...)            adds the lanes of a warp, and writes float [kRows][16]
#pragma once

#include <cstdint>

#include "cuda/activations.h"
#include "cuda/exact.h"
#include "cuda/packed.h"
#include "cuda/simt/simt.h"

namespace dualbinary::cuda {

inline constexpr int kDecodeWarps = 8;
inline constexpr int kDecodeThreads = kDecodeWarps * simt::kLanes;
inline constexpr int kTilesInFlight = 4;  // that a warp loads ahead: 2 KB at two planes

struct DecodeArguments {
  PackedWeight weight;
  Activations x;
  void* y;
  int slice_tiles;                // input tiles whose operands fit into shared memory
  const std::uint32_t* operands;  // made before by prepare_operands(), or null: then each block makes them
  const float* steps;
};

// The words of a lane of one tile.
template <int P>
struct TileWords {
  std::uint32_t w[2 * P];  // of plane p, row r: w[2p], row r + 8: w[2p + 1]
};

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
    for (int i = 0; i < P; ++i) {
      const simt::Words2 v = simt::load_once(reinterpret_cast<const simt::Words2*>(from) + i);
      words.w[2 * i] = v.w[0];
      words.w[2 * i + 1] = v.w[1];
    }
  }
  return words;
}

// A warp's tiles of a slice are first + warp + 8 i; a batch is kTilesInFlight of them. Past the end words are not used.
template <int P>
struct Batch {
  TileWords<P> tiles[kTilesInFlight];
};

template <int P>
DUALBINARY_DEVICE Batch<P> load_batch(const PackedWeight& weight, int row_tile, int first, int end, int lane) {
  Batch<P> batch{};
  DUALBINARY_UNROLL
  for (int i = 0; i < kTilesInFlight; ++i) {
    const int tile = first + kDecodeWarps * i;
    if (tile < end) batch.tiles[i] = load_tile<P>(weight, row_tile, tile, lane);
  }
  return batch;
}

// Makes the operands of the tiles [first, end) in shared memory. All threads of the block take part.
template <class Method>
DUALBINARY_DEVICE void fill_operands(const DecodeArguments& a, int first, int end, std::uint32_t* operands,
                                     float* steps) {
  const int tiles = end - first;
  if (a.operands != nullptr) {
    const std::int64_t from = static_cast<std::int64_t>(first) * Method::kTileWords;
    for (int i = simt::thread(); i < tiles * Method::kTileWords; i += kDecodeThreads)
      operands[i] = a.operands[from + i];
    for (int i = simt::thread(); i < tiles * Method::kRows; i += kDecodeThreads) {
      steps[i] = a.steps[static_cast<std::int64_t>(first) * Method::kRows + i];
    }
    return;
  }
  // Whole warps go round, as lanes share the step of a tile.
  const int units = Method::kRows * tiles * 4;
  const int rounded = (units + simt::kLanes - 1) / simt::kLanes * simt::kLanes;
  for (int u = simt::thread(); u < rounded; u += kDecodeThreads) {
    const int t = u % 4;
    const int tile = u / 4 % tiles;
    const int row = u / 4 / tiles;
    int q[kLaneInputs] = {};
    // A row past the end is an empty one: no input of it is below K.
    const float step = quantise<Method::kBits>(a.x, row, row < a.x.rows ? a.weight.K : 0, first + tile, t, q);
    if (row >= Method::kRows) continue;
    Method::fill(q, row, t, operands + tile * Method::kTileWords);
    if (t == 0) steps[tile * Method::kRows + row] = step;
  }
}

// Shared memory: operands, steps, then the sums of the warps.
template <class Method>
struct DecodeShared {
  static constexpr int kSumWords = kDecodeWarps * Method::kRows * kTileRows;
  static constexpr int kWordsOfTile = Method::kTileWords + Method::kRows;
  static constexpr int bytes(int tiles) { return 4 * (tiles * kWordsOfTile + kSumWords); }
};

// Adds the warps and writes the outputs of a row tile. What is not finite is computed anew from X itself: integers know
// neither NaN nor infinity.
template <int kRows>
DUALBINARY_DEVICE void write_outputs(const DecodeArguments& a, int row_tile, const float* sums) {
  for (int i = simt::thread(); i < kRows * kTileRows; i += kDecodeThreads) {
    const int row = i / kTileRows;
    const int n = row_tile * kTileRows + i % kTileRows;
    if (row >= a.x.rows || n >= a.weight.N) continue;
    float sum = 0;
    DUALBINARY_UNROLL
    for (int warp = 0; warp < kDecodeWarps; ++warp) sum += sums[warp * kRows * kTileRows + i];
    if (!simt::finite(sum)) sum = static_cast<float>(exact_product(a.weight, a.x, row, n));
    store_value(a.y, a.x.type, static_cast<std::int64_t>(row) * a.weight.N + n, sum);
  }
}

template <class Method>
DUALBINARY_GLOBAL(kDecodeThreads, 2)
decode_kernel(DecodeArguments a) {
  constexpr int P = Method::kPlanes;
  const int lane = simt::thread() % simt::kLanes;
  const int warp = simt::thread() / simt::kLanes;
  auto* operands = reinterpret_cast<std::uint32_t*>(simt::shared_memory());
  auto* steps = reinterpret_cast<float*>(operands + a.slice_tiles * Method::kTileWords);
  float* sums = steps + a.slice_tiles * Method::kRows;
  const int tiles = a.weight.input_tiles;
  const bool sliced = a.slice_tiles < tiles;
  bool filled = false;
  for (int row_tile = simt::block_x(); row_tile < a.weight.row_tiles; row_tile += simt::blocks_x()) {
    typename Method::Sums of_lane{};
    for (int first = 0; first < tiles; first += a.slice_tiles) {
      const int end = first + a.slice_tiles < tiles ? first + a.slice_tiles : tiles;
      // Weights are on their way while the operands are made.
      Batch<P> next = load_batch<P>(a.weight, row_tile, first + warp, end, lane);
      if (sliced || !filled) {
        if (sliced) simt::sync_block();  // the slice before may still be in use
        fill_operands<Method>(a, first, end, operands, steps);
        filled = true;
        simt::sync_block();
      }
      constexpr int kStride = kDecodeWarps * kTilesInFlight;
      DUALBINARY_NO_UNROLL
      for (int tile = first + warp; tile < end; tile += kStride) {
        const Batch<P> now = next;
        next = load_batch<P>(a.weight, row_tile, tile + kStride, end, lane);
        DUALBINARY_UNROLL
        for (int i = 0; i < kTilesInFlight; ++i) {
          const int current = tile + kDecodeWarps * i;
          if (current >= end) break;
          const int place = current - first;
          Method::multiply(a.weight, row_tile, current, now.tiles[i], lane, operands + place * Method::kTileWords,
                           steps + place * Method::kRows, of_lane);
        }
      }
    }
    Method::reduce(of_lane, lane, sums + warp * Method::kRows * kTileRows);
    simt::sync_block();
    write_outputs<Method::kRows>(a, row_tile, sums);
    simt::sync_block();
  }
}

}  // namespace dualbinary::cuda
