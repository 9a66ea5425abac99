// Products with few rows: bound by the read of the weight.
//
// A block of eight warps computes one row tile after another; the warps share its input tiles (tile_ring.h) and add up
// at the end, in a fixed order. The activations are integers (activations.h) in shared memory, laid out as B of a
// matrix instruction; where they do not all fit, slice by slice. What the matrix instruction is, a Method says:
//
//   kRows                  rows of X that it takes
//   kBits                  of the integers
//   kBlocksOfMultiprocessor  that the registers must suffice for
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
#include "cuda/tile_ring.h"

namespace dualbinary::cuda {

inline constexpr int kDecodeThreads = kDecodeWarps * simt::kLanes;

struct DecodeArguments {
  PackedWeight weight;
  Activations x;
  void* y;
  int slice_tiles;                // input tiles whose operands fit into shared memory: all, or a multiple of eight
  const std::uint32_t* operands;  // made before by prepare_operands(), or null: then each block makes them
  const float* steps;
};

// Shared memory of a block: the rings, the sums of the warps, the operands and their steps.
template <class Method>
struct DecodeShared {
  static constexpr int kSums = kDecodeWarps * Method::kRows * kTileRows;
  static constexpr int kTileBytes = 4 * (Method::kTileWords + Method::kRows);
  DUALBINARY_HOST_DEVICE static constexpr int ring_bytes(const PackedWeight& w) {
    return kRingSlots<Method::kPlanes> * slot_bytes(w);
  }
  DUALBINARY_HOST_DEVICE static constexpr int fixed_bytes(const PackedWeight& w) {
    return kDecodeWarps * ring_bytes(w) + kSums * 4;
  }
};

// Makes the operands of the tiles [first, end) in shared memory. All threads of the block take part.
template <class Method>
DUALBINARY_DEVICE void fill_operands(const DecodeArguments& a, int first, int end, std::uint32_t* operands,
                                     float* steps) {
  const int tiles = end - first;
  if (a.operands != nullptr) {
    const auto* from = a.operands + static_cast<std::int64_t>(first) * Method::kTileWords;
    const float* from_steps = a.steps + static_cast<std::int64_t>(first) * Method::kRows;
    for (int i = simt::thread(); i < tiles * Method::kTileWords; i += kDecodeThreads) operands[i] = from[i];
    for (int i = simt::thread(); i < tiles * Method::kRows; i += kDecodeThreads) steps[i] = from_steps[i];
    return;
  }
  // Whole warps go round, as lanes share the step of a tile.
  const int units = Method::kRows * tiles * 4;
  const int rounded = (units + simt::kLanes - 1) / simt::kLanes * simt::kLanes;
  DUALBINARY_NO_UNROLL
  for (int u = simt::thread(); u < rounded; u += kDecodeThreads) {
    const int t = u % 4;
    const int tile = u / 4 % tiles;
    const int row = u / 4 / tiles;
    std::uint32_t q[kLaneInputs];
    // A row past the end is an empty one: no input of it is below K.
    const float step = quantise<Method::kBits>(a.x, row, row < a.x.rows ? a.weight.K : 0, first + tile, t, q);
    if (row >= Method::kRows) continue;
    Method::fill(q, row, t, operands + tile * Method::kTileWords);
    if (t == 0) steps[tile * Method::kRows + row] = step;
  }
}

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
DUALBINARY_GLOBAL(kDecodeThreads, Method::kBlocksOfMultiprocessor)
decode_kernel(DecodeArguments a) {
  constexpr int P = Method::kPlanes;
  using Shared = DecodeShared<Method>;
  const int lane = simt::thread() % simt::kLanes;
  const int warp = simt::thread() / simt::kLanes;
  std::uint8_t* shared = simt::shared_memory();
  auto* sums = reinterpret_cast<float*>(shared + kDecodeWarps * Shared::ring_bytes(a.weight));
  auto* operands = reinterpret_cast<std::uint32_t*>(shared + Shared::fixed_bytes(a.weight));
  auto* steps = reinterpret_cast<float*>(operands + a.slice_tiles * Method::kTileWords);

  // Weights are on their way while the operands are made.
  TileRing<P> ring(a.weight, shared + warp * Shared::ring_bytes(a.weight), warp, lane);
  const int tiles = a.weight.input_tiles;
  const bool sliced = a.slice_tiles < tiles;
  bool filled = false;
  for (int row_tile = simt::block_x(); row_tile < a.weight.row_tiles; row_tile += simt::blocks_x()) {
    typename Method::Sums of_lane{};
    for (int first = 0; first < tiles; first += a.slice_tiles) {
      const int end = first + a.slice_tiles < tiles ? first + a.slice_tiles : tiles;
      if (sliced || !filled) {
        simt::sync_block();  // the slice before may still be in use
        fill_operands<Method>(a, first, end, operands, steps);
        filled = true;
        simt::sync_block();
      }
      DUALBINARY_NO_UNROLL
      for (int tile = first + warp; tile < end; tile += kDecodeWarps) {
        const TileView<P> view = ring.next(a.weight, row_tile, tile);
        const int place = tile - first;
        for_scale_type(a.weight.scale_type, [&]<Scales kType>() {
          Method::template multiply<kType>(a.weight, view, lane, operands + place * Method::kTileWords,
                                           steps + place * Method::kRows, of_lane);
        });
      }
    }
    Method::reduce(of_lane, lane, sums + warp * Method::kRows * kTileRows);
    simt::sync_block();
    write_outputs<Method::kRows>(a, row_tile, sums);
    simt::sync_block();  // the sums have been read
  }
  simt::wait_copies<0>();
}

}  // namespace dualbinary::cuda
