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

// Shared memory of a block. Three of them fit a multiprocessor of compute capability 9.0, one every other.
inline constexpr int kDecodeSharedBytes = 64 << 10;
inline constexpr int kDecodeBlocksOfMultiprocessor = 4;

template <class Method>
void launch_decode(const Call& call, const std::uint32_t* operands, const float* steps) {
  using Shared = DecodeShared<Method>;
  const int fitting = (kDecodeSharedBytes / 4 - Shared::kSumWords) / Shared::kWordsOfTile;
  const int tiles = std::min(call.weight.input_tiles, fitting);
  const int blocks = std::min(call.weight.row_tiles, call.multiprocessors * kDecodeBlocksOfMultiprocessor);
  simt::launch(
      decode_kernel<Method>,
      {{static_cast<unsigned>(blocks)}, kDecodeThreads, static_cast<unsigned>(Shared::bytes(tiles)), call.stream},
      DecodeArguments{call.weight, call.x, call.y, tiles, operands, steps});
}

}  // namespace dualbinary::cuda
