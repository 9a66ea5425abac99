// Many rows by wgmma, for compute capability 9.0: weights are A in registers, X is B in shared memory.
//
// Two warpgroups of 64 rows each. While the tensor cores work on one stage, the warps dequantize those of the next
// into the other half of the registers for A.
#pragma once

#include <cstdint>

#include "cuda/prefill.h"

namespace dualbinary::cuda {

inline constexpr int kWgmmaGroups = 2;
inline constexpr int kWgmmaThreads = 128 * kWgmmaGroups;
inline constexpr int kWgmmaRows = 64 * kWgmmaGroups;
inline constexpr int kWgmmaStages = 4;
inline constexpr int kSwizzleBytes = 1024;  // what the stages must be aligned to
inline constexpr int kStepsOfStage = kStageInputs / 16;

template <int kTokens>
struct WgmmaShape {
  static constexpr int kStageBytes = kTokens * kTokenBytes;
  static constexpr int kSumBytes = kTokens * (kWgmmaRows + kPadding) * 4;
  static constexpr int kSharedBytes =
      kSwizzleBytes + (kWgmmaStages * kStageBytes > kSumBytes ? kWgmmaStages * kStageBytes : kSumBytes);
};

template <int P, int kTokens>
DUALBINARY_GLOBAL(kWgmmaThreads, 1)
prefill_wgmma_kernel(DUALBINARY_ARGUMENT PrefillArguments a) {
  using Shape = WgmmaShape<kTokens>;
  const int lane = simt::thread() % simt::kLanes;
  const int warp = simt::thread() / simt::kLanes;
  const int first_token = simt::block_y() * kTokens;
  std::uint8_t* shared = simt::shared_memory();
  shared += (kSwizzleBytes - simt::misalignment(shared, kSwizzleBytes)) % kSwizzleBytes;

  const int stages = a.weight.input_tiles * kStagesOfTile;
  const auto copy = [&](int stage) {
    if (stage < stages) {
      copy_stage<kTokens, kWgmmaThreads>(a, first_token, stage * kStageInputs,
                                         shared + stage % kWgmmaStages * Shape::kStageBytes, simt::thread());
    }
    simt::commit_copies();
  };

  RowDequantizer<P> rows(a.weight, simt::block_x() * (kWgmmaRows / kTileRows) + warp, lane);
  TileWords<P> next = rows.load(a.weight, 0);
  copy(0);
  copy(1);

  float d[kTokens / 2];  // the first product writes them: setting them to zero would come between two wgmma
  std::uint32_t weights[kStagesOfTile][kStepsOfStage / 2][2][4];
  DUALBINARY_NO_UNROLL
  for (int tile = 0; tile < a.weight.input_tiles; ++tile) {
    const TileWords<P> words = next;
    next = rows.load(a.weight, tile + 1);
    DUALBINARY_UNROLL
    for (int half = 0; half < kStagesOfTile; ++half) {
      const int stage = tile * kStagesOfTile + half;
      // The products that read these registers two stages ago have been waited for.
      DUALBINARY_UNROLL
      for (int part = 0; part < kStageParts; ++part) {
        rows.dequantize(a.weight, words, tile, kStageParts * half + part, weights[half][part]);
      }
      simt::wait_copies<1>();
      simt::publish_shared();
      simt::sync_block();  // everyone's copies are there and visible, and stage - 2 is free
      copy(stage + 2);
      const std::uint8_t* x = shared + stage % kWgmmaStages * Shape::kStageBytes;
      DUALBINARY_UNROLL
      for (int i = 0; i < kStepsOfStage * 4; ++i) simt::pin(weights[half][i / 8][i / 4 % 2][i % 4]);
      simt::wgmma_fence();
      DUALBINARY_UNROLL
      for (int step = 0; step < kStepsOfStage; ++step) {
        simt::wgmma<kTokens>(d, weights[half][step / 2][step % 2], x + step * 16 * 2, stage + step > 0);
      }
      simt::wgmma_commit();
      simt::wgmma_wait<1>();
    }
  }
  simt::wgmma_wait<0>();
  DUALBINARY_UNROLL
  for (int i = 0; i < kTokens / 2; ++i) simt::pin(d[i]);
  simt::wait_copies<0>();
  simt::sync_block();
  auto* sums = reinterpret_cast<float*>(shared);
  DUALBINARY_UNROLL
  for (int block = 0; block < kTokens / 8; ++block) {
    const float fragment[4] = {d[4 * block], d[4 * block + 1], d[4 * block + 2], d[4 * block + 3]};
    put_fragment<kWgmmaRows, false>(sums, warp * kTileRows, block, fragment, lane);
  }
  simt::sync_block();
  write_tile<kWgmmaRows, kTokens, kWgmmaThreads>(a, simt::block_x() * kWgmmaRows, first_token, sums, simt::thread());
}

}  // namespace dualbinary::cuda
