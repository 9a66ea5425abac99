// Host side of decode.h: the shape of a launch, and operands that are made before.
#pragma once

#include <algorithm>
#include <cstddef>

#include "cuda/decode.h"
#include "cuda/for_planes.h"
#include "cuda/inventory.h"

namespace dualbinary::cuda {

// Shared memory of a thread block that makes its operands itself: three fit a multiprocessor of compute capability 9.0,
// one every other. Without operands it takes 64 KiB at the worst, four planes of float32 scales in groups of 32.
inline constexpr int kDecodeSharedBytes = 72 << 10;

// Thread blocks that prepare operands: each thread has one or two lanes' inputs of a tile.
inline constexpr std::int64_t kMaxPrepareBlocks = 1024;

template <class Mma>
bool fits_shared(const PackedWeight& w) {
  const auto words = static_cast<std::int64_t>(w.input_tiles) * Mma::kTileWords;
  return DecodeShared<Mma>::bytes(w, true) + 4 * words <= kDecodeSharedBytes;
}

// Bytes of workspace for prepared operands.
template <class Mma>
std::size_t operand_bytes(const PackedWeight& w) {
  return 4 * static_cast<std::size_t>(w.input_tiles) * Mma::kTileWords;
}

template <class Mma, bool kPrepared>
void launch_decode(const Call& call) {
  const PackedWeight& w = call.weight;
  auto* operands = reinterpret_cast<std::uint32_t*>(call.workspace);
  if constexpr (kPrepared) {
    const std::int64_t units = static_cast<std::int64_t>(Mma::kRows) * w.input_tiles * 4;
    const std::int64_t blocks = std::min((units + kDecodeThreads - 1) / kDecodeThreads, kMaxPrepareBlocks);
    simt::launch(prepare_operands<Mma>, {{static_cast<unsigned>(blocks)}, kDecodeThreads, 0, call.stream}, call.x, w,
                 operands);
  }
  const auto shared = static_cast<unsigned>(DecodeShared<Mma>::bytes(w, kPrepared));
  const auto kernel = decode_kernel<Mma, kPrepared>;
  // As many thread blocks as are resident, or fewer that all have the same number of row tiles.
  const int resident = call.multiprocessors * simt::resident_blocks(kernel, kDecodeThreads, shared);
  const int rounds = (w.row_tiles + resident - 1) / resident;
  const int blocks = (w.row_tiles + rounds - 1) / rounds;
  simt::launch(kernel, {{static_cast<unsigned>(blocks)}, kDecodeThreads, shared, call.stream},
               DecodeArguments{w, call.x, call.y, operands});
}

}  // namespace dualbinary::cuda
