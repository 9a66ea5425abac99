// Host side of decode.h: the shape of a launch.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "cuda/decode.h"
#include "cuda/inventory.h"

namespace dualbinary::cuda {

// Calls body.operator()<P>() for the number of planes.
template <class Body>
void for_planes(int planes, const Body& body) {
  switch (planes) {
    case 1:
      return body.template operator()<1>();
    case 2:
      return body.template operator()<2>();
    case 3:
      return body.template operator()<3>();
    case 4:
      return body.template operator()<4>();
    default:
      throw std::logic_error("planes were not checked");
  }
}

// Shared memory of a block, if a slice of one tile for each warp fits: three blocks on a multiprocessor of compute
// capability 9.0. At the worst, 16 rows and four planes of float32 scales in groups of 32, such a slice takes 95 KiB;
// every multiprocessor has 99.
inline constexpr int kDecodeSharedBytes = 72 << 10;
inline constexpr int kDecodeBlocksOfMultiprocessor = 3;

template <class Method>
void launch_decode(const Call& call, const std::uint32_t* operands, const float* steps) {
  using Shared = DecodeShared<Method>;
  const int fixed = Shared::fixed_bytes(call.weight);
  const int fitting = (kDecodeSharedBytes - fixed) / Shared::kTileBytes / kDecodeWarps * kDecodeWarps;
  const int tiles = std::min(call.weight.input_tiles, std::max(fitting, kDecodeWarps));
  const int blocks = std::min(call.weight.row_tiles, call.multiprocessors * kDecodeBlocksOfMultiprocessor);
  simt::launch(decode_kernel<Method>,
               {{static_cast<unsigned>(blocks)},
                kDecodeThreads,
                static_cast<unsigned>(fixed + tiles * Shared::kTileBytes),
                call.stream},
               DecodeArguments{call.weight, call.x, call.y, tiles, operands, steps});
}

}  // namespace dualbinary::cuda
