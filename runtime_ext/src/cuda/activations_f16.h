// X as float16 values, in rows that asynchronous copies can take: for the kernels of many rows.
//
// float16 activations are taken as they are where their rows are aligned to 16 bytes. Everything else is written to the
// workspace first: rows are divided by a power of two, so that the largest value has the exponent 14 and nothing of
// float32's or bfloat16's range is lost at the top; bfloat16's eight bits fit into float16's eleven. float32 becomes
// two rows, high and low, of 22 bits together, unless int8 activations would do (accuracy_level 4).
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/activations.h"
#include "cuda/inventory.h"

namespace dualbinary::cuda {

// Tokens [tokens, stride] in float16, as the kernels of many rows read them; the columns K to stride are not read.
struct F16Rows {
  const std::uint16_t* data;
  std::int64_t stride;     // of a token, in values: a multiple of 8
  int tokens;              // rows, or twice as many where `split`
  bool split;              // token 2m is the high part of row m, 2m + 1 the low one times kLowFactor
  const float* row_scale;  // of each row, or null for ones
};

inline constexpr float kLowFactor = 2048.0f;  // 2^11: the low part has the size of the high one

// Tokens that the kernels see: twice the rows, where float32 is split in two.
inline int tokens_of(const Call& call) {
  const bool split = call.x.type == Type::kFloat32 && call.accuracy_level == 0;
  return split ? 2 * call.x.rows : call.x.rows;
}

// Bytes of workspace for the values and the scales of the rows; 0 where X is taken as it is, which are float16 rows of
// a multiple of eight inputs.
std::size_t f16_workspace(const Call& call);

// X as float16; enqueues the kernel that writes it where it is needed. Throws std::invalid_argument where X is taken as
// it is but does not begin at a multiple of 16 bytes.
F16Rows make_f16_rows(const Call& call);

}  // namespace dualbinary::cuda
