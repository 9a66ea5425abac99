// Many rows by mma.sync, for every architecture.
//
// Four warps. With few tokens they split the inputs among them, so that enough thread blocks and loads are in flight;
// with many each has two row tiles, so that a fragment of X from shared memory serves two products.
#pragma once

#include <cstdint>

#include "cuda/prefill.h"

namespace dualbinary::cuda {

inline constexpr int kMmaWarps = 4;
inline constexpr int kMmaThreads = kMmaWarps * simt::kLanes;
inline constexpr int kMmaStages = 4;

// kTokens of X and kRowTiles x kRowWarps row tiles per thread block; kSplit warps share the inputs of a row tile.
template <int P, int kTokens, int kRowTiles, int kSplit>
struct MmaShape {
  static constexpr int kRowWarps = kMmaWarps / kSplit;
  static constexpr int kRows = kTileRows * kRowTiles * kRowWarps;
  static constexpr int kChunkOfSplit = kTokens * kTokenBytes;
  static constexpr int kStageBytes = kSplit * kChunkOfSplit;
  static constexpr int kSumBytes = kTokens * (kRows + kPadding) * 4;
  static constexpr int kSharedBytes = kMmaStages * kStageBytes > kSumBytes ? kMmaStages * kStageBytes : kSumBytes;
};

template <int P, int kTokens, int kRowTiles, int kSplit>
DUALBINARY_GLOBAL(kMmaThreads, 2)
prefill_mma_kernel(DUALBINARY_ARGUMENT PrefillArguments a) {
  using Shape = MmaShape<P, kTokens, kRowTiles, kSplit>;
  constexpr int kBlocks = kTokens / 8;
  const int lane = simt::thread() % simt::kLanes;
  const int warp = simt::thread() / simt::kLanes;
  const int split = warp % kSplit;
  const int row_warp = warp / kSplit;
  const int first_row_tile = (simt::block_x() * Shape::kRowWarps + row_warp) * kRowTiles;
  const int first_token = simt::block_y() * kTokens;
  std::uint8_t* shared = simt::shared_memory();

  // Stage i has half i % 2 of the tiles kSplit * (i / 2) + split, one for each split.
  const int rounds = (a.weight.input_tiles + kSplit - 1) / kSplit;
  const int stages = rounds * kStagesOfTile;
  const auto copy = [&](int stage) {
    if (stage < stages) {
      DUALBINARY_UNROLL
      for (int part = 0; part < kSplit; ++part) {
        const int tile = kSplit * (stage / kStagesOfTile) + part;
        const int input = tile * kTileInputs + stage % kStagesOfTile * kStageInputs;
        copy_stage<kTokens, kMmaThreads>(a, first_token, input,
                                         shared + stage % kMmaStages * Shape::kStageBytes + part * Shape::kChunkOfSplit,
                                         simt::thread());
      }
    }
    simt::commit_copies();  // an empty group too: the waits count groups
  };

  RowDequantizer<P> rows[kRowTiles] = {};
  TileWords<P> next[kRowTiles];
  DUALBINARY_UNROLL
  for (int i = 0; i < kRowTiles; ++i) {
    rows[i] = RowDequantizer<P>(a.weight, first_row_tile + i, lane);
    next[i] = rows[i].load(a.weight, split);
  }
  DUALBINARY_UNROLL
  for (int stage = 0; stage < kMmaStages - 1; ++stage) copy(stage);

  float d[kRowTiles][kBlocks][4] = {};
  DUALBINARY_NO_UNROLL
  for (int round = 0; round < rounds; ++round) {
    const int tile = kSplit * round + split;
    TileWords<P> words[kRowTiles];
    DUALBINARY_UNROLL
    for (int i = 0; i < kRowTiles; ++i) {
      words[i] = next[i];
      next[i] = rows[i].load(a.weight, tile + kSplit);
    }
    DUALBINARY_UNROLL
    for (int half = 0; half < kStagesOfTile; ++half) {
      const int stage = round * kStagesOfTile + half;
      simt::wait_copies<kMmaStages - 2>();
      simt::sync_block();  // everyone's copies are there, and the stage that is filled next is free
      copy(stage + kMmaStages - 1);
      const std::uint8_t* x = shared + stage % kMmaStages * Shape::kStageBytes + split * Shape::kChunkOfSplit;
      DUALBINARY_UNROLL
      for (int part = 0; part < kStageParts; ++part) {
        std::uint32_t weights[kRowTiles][2][4];
        DUALBINARY_UNROLL
        for (int i = 0; i < kRowTiles; ++i) {
          rows[i].dequantize(a.weight, words[i], tile, kStageParts * half + part, weights[i]);
        }
        DUALBINARY_UNROLL
        for (int block = 0; block < kBlocks; ++block) {
          // Matrix lane / 8 is chunk 4 part + lane / 8 of these eight tokens.
          std::uint32_t b[4];
          simt::load_matrices(b, x + chunk_offset(8 * block + lane % 8, 4 * part + lane / 8));
          DUALBINARY_UNROLL
          for (int i = 0; i < kRowTiles; ++i) {
            simt::mma_f16(d[i][block], weights[i][0], b[0], b[1]);
            simt::mma_f16(d[i][block], weights[i][1], b[2], b[3]);
          }
        }
      }
    }
  }

  // The stages are done with; their memory takes the sums, split after split.
  simt::wait_copies<0>();
  simt::sync_block();
  auto* sums = reinterpret_cast<float*>(shared);
  DUALBINARY_UNROLL
  for (int turn = 0; turn < kSplit; ++turn) {
    if (turn == split) {
      DUALBINARY_UNROLL
      for (int i = 0; i < kRowTiles; ++i) {
        DUALBINARY_UNROLL
        for (int block = 0; block < kBlocks; ++block) {
          const int row = (row_warp * kRowTiles + i) * kTileRows;
          if (turn == 0) {
            put_fragment<Shape::kRows, false>(sums, row, block, d[i][block], lane);
          } else {
            put_fragment<Shape::kRows, true>(sums, row, block, d[i][block], lane);
          }
        }
      }
    }
    simt::sync_block();
  }
  write_tile<Shape::kRows, kTokens, kMmaThreads>(a, simt::block_x() * Shape::kRows, first_token, sums, simt::thread());
}

}  // namespace dualbinary::cuda
