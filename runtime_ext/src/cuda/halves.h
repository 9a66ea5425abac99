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

inline constexpr int kHalvesThreads = 256;
inline constexpr float kLowFactor = 2048.0f;  // 2^11: the low part has the size of the high one

// One block for each row. `stride` is a multiple of 8 and at least K; the columns past K become zeros.
DUALBINARY_GLOBAL(kHalvesThreads, 2)
prepare_halves(Activations x, int K, std::int64_t stride, bool split, std::uint16_t* data, float* row_scale) {
  const std::int64_t row = simt::block_x();
  auto* of_warps = reinterpret_cast<float*>(simt::shared_memory());
  float largest = 0;
  for (int k = simt::thread(); k < K; k += kHalvesThreads) {
    const float value = load_value(x.data, x.type, row * K + k);
    const float magnitude = value < 0 ? -value : value;
    if (simt::finite(magnitude) && magnitude > largest) largest = magnitude;
  }
  for (int mask = 1; mask < simt::kLanes; mask *= 2) {
    const float other = simt::shuffle_xor(largest, mask);
    largest = other > largest ? other : largest;
  }
  if (simt::thread() % simt::kLanes == 0) of_warps[simt::thread() / simt::kLanes] = largest;
  simt::sync_block();
  for (int warp = 0; warp < kHalvesThreads / simt::kLanes; ++warp) {
    largest = of_warps[warp] > largest ? of_warps[warp] : largest;
  }
  // Both factors stay normal: exponents are kept between -112 and 126. A row of float16 is only copied.
  int exponent = 0;
  if (x.type != Type::kFloat16 && largest > 0) {
    exponent = simt::exponent_of(largest) - 14;
    exponent = exponent < -112 ? -112 : exponent;
  }
  const float inverse = simt::power_of_two(-exponent);
  for (int k = simt::thread(); k < stride; k += kHalvesThreads) {
    const float value = k < K ? load_value(x.data, x.type, row * K + k) * inverse : 0.0f;
    const std::uint16_t high = simt::float_to_half(value);
    if (split) {
      data[2 * row * stride + k] = high;
      const float low = (value - simt::half_to_float(high)) * kLowFactor;
      data[(2 * row + 1) * stride + k] = simt::float_to_half(low);
    } else {
      data[row * stride + k] = high;
    }
  }
  if (simt::thread() == 0) row_scale[row] = simt::power_of_two(exponent);
}

}  // namespace dualbinary::cuda
