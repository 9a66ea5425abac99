// Products with few rows: bound by the read of the weight.
//
// A thread block of eight warps computes one row tile after another; the warps share its input tiles (tile_ring.h) and
// add up at the end, in a fixed order. The activations are integers (activations.h), laid out as B of a matrix
// instruction. One row's are made by each thread block, in shared memory; those of more rows, or of a row that does not
// fit, by one kernel before, in the workspace. The matrix instruction and its operands are those of an `Mma`, which has
//
//   kRows                    rows of X that it takes
//   kBits                    of the integers
//   kBlocksOfMultiprocessor  that the registers must suffice for
//   kTileWords               32-bit words of the operands of an input tile, even; kRows steps are the last of them
//   fill(...)                writes the operands of 32 inputs of a row
//   Sums, multiply(...)      sums of a lane, and adds a tile to them
//   reduce(...)              adds the lanes of a warp, and writes float [kRows][16]
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
  const std::uint32_t* operands;  // [input tiles][kTileWords], where they are prepared
};

// Shared memory of a thread block: the rings, the sums of the warps, and the operands where they are not prepared.
template <class Mma>
struct DecodeShared {
  static constexpr int kSums = kDecodeWarps * Mma::kRows * kTileRows;
  DUALBINARY_HOST_DEVICE static constexpr int ring_bytes(const PackedWeight& w) {
    return kRingSlots<Mma::kPlanes> * slot_bytes(w);
  }
  DUALBINARY_HOST_DEVICE static constexpr int bytes(const PackedWeight& w, bool prepared) {
    const int operands = prepared ? 0 : w.input_tiles * Mma::kTileWords;
    return kDecodeWarps * ring_bytes(w) + 4 * (kSums + operands);
  }
};

// Makes the operands of all tiles. `threads` threads take part, this one as number `thread`, in whole warps: lanes
// share the step of a tile.
template <class Mma>
DUALBINARY_DEVICE void fill_operands(const Activations& x, const PackedWeight& weight, std::int64_t thread,
                                     std::int64_t threads, std::uint32_t* operands) {
  const std::int64_t units = static_cast<std::int64_t>(Mma::kRows) * weight.input_tiles * 4;
  const std::int64_t rounded = (units + simt::kLanes - 1) / simt::kLanes * simt::kLanes;
  DUALBINARY_NO_UNROLL
  for (std::int64_t unit = thread; unit < rounded; unit += threads) {
    const int t = static_cast<int>(unit % 4);
    const int tile = static_cast<int>(unit / 4 % weight.input_tiles);
    const int row = static_cast<int>(unit / 4 / weight.input_tiles);
    std::uint32_t q[kLaneInputs];
    // A row past the end is an empty one: no input of it is below K.
    const float step = quantize<Mma::kBits>(x, row, row < x.rows ? weight.K : 0, tile, t, q);
    if (row >= Mma::kRows) continue;
    std::uint32_t* of_tile = operands + static_cast<std::int64_t>(tile) * Mma::kTileWords;
    Mma::fill(q, row, t, of_tile);
    if (t == 0) of_tile[Mma::kTileWords - Mma::kRows + row] = simt::bits_of(step);
  }
}

template <class Mma>
DUALBINARY_GLOBAL(kDecodeThreads, 2)
prepare_operands(DUALBINARY_ARGUMENT Activations x, DUALBINARY_ARGUMENT PackedWeight weight, std::uint32_t* operands) {
  const std::int64_t thread = static_cast<std::int64_t>(simt::block_x()) * kDecodeThreads + simt::thread();
  fill_operands<Mma>(x, weight, thread, static_cast<std::int64_t>(simt::blocks_x()) * kDecodeThreads, operands);
}

// Adds the warps and writes the outputs of a row tile. What is not finite is computed again from X itself: integers
// know neither NaN nor infinity.
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

// One row tile after another, by all warps. `operands` are those of all input tiles.
template <class Mma, class Array>
DUALBINARY_DEVICE void multiply_row_tiles(const DecodeArguments& a, TileRing<Mma::kPlanes>& ring, int warp, int lane,
                                          float* sums, const Array& operands) {
  constexpr int kTileBytes = 4 * Mma::kTileWords;
  for (int row_tile = simt::block_x(); row_tile < a.weight.row_tiles; row_tile += simt::blocks_x()) {
    typename Mma::Sums of_lane{};
    Array of_tile = operands.after(warp * kTileBytes);
    DUALBINARY_NO_UNROLL
    for (int tile = warp; tile < a.weight.input_tiles; tile += kDecodeWarps) {
      const TileView<Mma::kPlanes> view = ring.next(a.weight, row_tile, tile);
      for_scale_type(a.weight.scale_type,
                     [&]<Scales kType>() { Mma::template multiply<kType>(a.weight, view, lane, of_tile, of_lane); });
      of_tile = of_tile.after(kDecodeWarps * kTileBytes);
    }
    Mma::reduce(of_lane, lane, sums + warp * Mma::kRows * kTileRows);
    simt::sync_block();
    write_outputs<Mma::kRows>(a, row_tile, sums);
    simt::sync_block();  // the sums have been read
  }
}

template <class Mma, bool kPrepared>
DUALBINARY_GLOBAL(kDecodeThreads, Mma::kBlocksOfMultiprocessor)
decode_kernel(DUALBINARY_ARGUMENT DecodeArguments a) {
  using Shared = DecodeShared<Mma>;
  const int lane = simt::thread() % simt::kLanes;
  const int warp = simt::thread() / simt::kLanes;
  std::uint8_t* shared = simt::shared_memory();
  auto* sums = reinterpret_cast<float*>(shared + kDecodeWarps * Shared::ring_bytes(a.weight));
  // Weights are on their way while the operands are made.
  TileRing<Mma::kPlanes> ring(a.weight, shared + warp * Shared::ring_bytes(a.weight), warp, lane);
  if constexpr (kPrepared) {
    const simt::GlobalArray operands{reinterpret_cast<const std::uint8_t*>(a.operands)};
    multiply_row_tiles<Mma>(a, ring, warp, lane, sums, operands);
  } else {
    auto* operands = reinterpret_cast<std::uint32_t*>(sums + Shared::kSums);
    fill_operands<Mma>(a.x, a.weight, simt::thread(), kDecodeThreads, operands);
    simt::sync_block();
    multiply_row_tiles<Mma>(a, ring, warp, lane, sums, simt::SharedArray{simt::shared_address(operands)});
  }
  simt::wait_copies<0>();
}

}  // namespace dualbinary::cuda
