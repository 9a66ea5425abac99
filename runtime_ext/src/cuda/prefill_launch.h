// Host side of prefill.h: X as halves, made in the workspace where the caller's will not do.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/for_planes.h"
#include "cuda/halves.h"
#include "cuda/inventory.h"
#include "cuda/prefill.h"

namespace dualbinary::cuda {

// Tokens that the kernel sees: twice the rows, where float32 is split in two halves.
inline int tokens_of(const Call& call) {
  const bool split = call.x.type == Type::kFloat32 && call.accuracy_level == 0;
  return split ? 2 * call.x.rows : call.x.rows;
}

// Bytes for the halves and the scales of the rows; 0 where X is taken as it is, which are float16 rows of a multiple of
// eight inputs.
std::size_t halves_workspace(const Call& call);

// X as halves; enqueues their preparation where it is needed. Throws std::invalid_argument where X is taken as it is
// but does not begin at a multiple of 16 bytes.
HalfRows make_halves(const Call& call);

}  // namespace dualbinary::cuda
