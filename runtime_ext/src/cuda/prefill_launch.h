// Host side of prefill.h: X as halves, made in the workspace where the caller's will not do.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/decode_launch.h"
#include "cuda/halves.h"
#include "cuda/inventory.h"
#include "cuda/prefill.h"

namespace dualbinary::cuda {

// Tokens that the kernel sees: twice the rows, where float32 is split in two halves.
inline int tokens_of(const Call& call) {
  const bool split = call.x.type == Type::kFloat32 && call.accuracy_level == 0;
  return split ? 2 * call.x.rows : call.x.rows;
}

// Bytes for the halves and the scales of the rows. Alignment of X is not known yet, so any X that could be badly
// aligned counts.
std::size_t halves_workspace(const Call& call);

// X as halves; enqueues their preparation where it is needed.
HalfRows make_halves(const Call& call);

}  // namespace dualbinary::cuda
