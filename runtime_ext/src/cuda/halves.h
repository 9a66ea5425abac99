// X as halves, in rows that asynchronous copies can take: for the kernels of many rows.
//
// float16 activations are taken as they are where their rows are aligned to 16 bytes. Everything else is written to the
// workspace first: rows are divided by a power of two, so that the largest value has the exponent 14 and nothing of
// float32's or bfloat16's range is lost at the top; bfloat16's eight bits fit into a half's eleven. float32 becomes two
// rows, high and low, of 22 bits together, unless int8 activations would do (accuracy_level 4).
#pragma once

#include <cstdint>

#include "cuda/activations.h"
#include "cuda/packed.h"
#include "cuda/simt/simt.h"

namespace dualbinary::cuda {

// What the kernels of many rows read: tokens [tokens, stride] in halves; the columns K to stride are not read.
struct HalfRows {
  const std::uint16_t* data;
  std::int64_t stride;     // of a token, in halves: a multiple of 8
  int tokens;              // rows, or twice as many where `split`
  bool split;              // token 2m is the high part of row m, 2m + 1 the low one times kLowFactor
  const float* row_scale;  // of each row, or null for ones
};

inline constexpr float kLowFactor = 2048.0f;  // 2^11: the low part has the size of the high one

}  // namespace dualbinary::cuda
