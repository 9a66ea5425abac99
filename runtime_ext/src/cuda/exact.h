// One output, computed from X and the packed weight in double precision: for results that are not finite.
#pragma once

#include <cstdint>

#include "cuda/activations.h"
#include "cuda/packed.h"
#include "cuda/simt/simt.h"

namespace dualbinary::cuda {

// The bit of plane p, output n and input k.
DUALBINARY_DEVICE bool packed_bit(const PackedWeight& w, int p, int n, int k) {
  const int row = n % kTileRows;
  const int within = k % 16;
  const int t = within % 8 / 2;
  const int j = 4 * (k / 16 % 2) + 2 * (within / 8) + within % 2;
  const int s = k % kTileInputs / kPartInputs;
  const std::int64_t tile = static_cast<std::int64_t>(n / kTileRows) * w.input_tiles + k / kTileInputs;
  const std::int64_t word = ((tile * simt::kLanes + 4 * (row % 8) + t) * w.P + p) * 2 + row / 8;
  return (w.planes[word] >> (4 * j + s) & 1) != 0;
}

// The scale of plane c, or of the plane of ones where c is P: read_scales() of packed.h in double precision.
DUALBINARY_DEVICE double exact_scale(const PackedWeight& w, int n, int group, int c) {
  if (!w.even) return load_scale(w, n, group, c);
  const double step = load_scale(w, n, group, 0);
  if (c < w.P) return step * (1 << c);
  const double last = w.base == Base::kZero ? w.zero : load_scale(w, n, group, 1);
  return w.base == Base::kOffset ? last : -last * step;
}

// As the reference does it: an input that a plane does not select does not count, even if it is infinite.
DUALBINARY_DEVICE_NOINLINE double exact_product(const PackedWeight& w, const Activations& x, std::int64_t row, int n) {
  double sum = 0;
  DUALBINARY_NO_UNROLL
  for (int group = 0; group < w.groups; ++group) {
    DUALBINARY_NO_UNROLL
    for (int c = 0; c <= w.P; ++c) {
      if (c == w.P && w.base == Base::kNone) break;
      double partial = 0;
      const int inputs = w.group_parts * kPartInputs;
      const int begin = group * inputs;
      const int end = w.K - begin < inputs ? w.K : begin + inputs;
      DUALBINARY_NO_UNROLL
      for (int k = begin; k < end; ++k) {
        if (c == w.P || packed_bit(w, c, n, k)) partial += load_value(x.data, x.type, row * w.K + k);
      }
      sum += exact_scale(w, n, group, c) * partial;
    }
    if (sum != sum) break;  // NaN stays NaN, and X may be full of it
  }
  return sum;
}

}  // namespace dualbinary::cuda
