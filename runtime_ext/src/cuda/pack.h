// Packs a weight of layout 1 on the device: the kernels that write packed.h's arrays, one thread for each element.
#pragma once

#include <cstdint>

#include "cuda/packed.h"
#include "cuda/simt/simt.h"

namespace dualbinary::cuda {

inline constexpr int kPackThreads = 256;

// Layout 1 in device memory: planes [P, N, row_bytes], scales [C, N, groups], or [C, N, 2 + groups] of codes.
struct PlainWeight {
  const std::uint8_t* planes;
  const void* scales;
  std::int64_t row_bytes;
};

DUALBINARY_DEVICE std::int64_t pack_index() {
  return static_cast<std::int64_t>(simt::block_x()) * kPackThreads + simt::thread();
}

DUALBINARY_GLOBAL(kPackThreads, 1)
pack_planes(PackedWeight w, PlainWeight plain, std::uint32_t* packed, std::int64_t words) {
  const std::int64_t index = pack_index();
  if (index >= words) return;
  const auto half = static_cast<int>(index % 2);
  const auto p = static_cast<int>(index / 2 % w.P);
  const std::int64_t rest = index / 2 / w.P;
  const auto lane = static_cast<int>(rest % simt::kLanes);
  const std::int64_t tile = rest / simt::kLanes;
  const std::int64_t n = tile / w.input_tiles * kTileRows + lane / 4 + 8 * half;
  std::uint32_t word = 0;
  if (n < w.N) {
    const std::uint8_t* row = plain.planes + (static_cast<std::int64_t>(p) * w.N + n) * plain.row_bytes;
    for (int bit = 0; bit < 32; ++bit) {
      const std::int64_t k = tile % w.input_tiles * kTileInputs + input_of_bit(lane % 4, bit);
      if (k < w.K) word |= static_cast<std::uint32_t>(row[k / 8] >> (k % 8) & 1) << bit;
    }
  }
  packed[index] = word;
}

// Index of an element of `packed.h`'s scales as the c, n and group that it holds; n may be N or more, so past the end
// too.
struct ScalePlace {
  int c;
  int n;
  int group;
};

DUALBINARY_DEVICE ScalePlace scale_place(const PackedWeight& w, std::int64_t index, int groups) {
  const auto half = static_cast<int>(index % 2);
  const auto r = static_cast<int>(index / 2 % 8);
  const auto c = static_cast<int>(index / 16 % w.C);
  const std::int64_t line = index / 16 / w.C;
  return {c, static_cast<int>(line / groups) * kTileRows + r + 8 * half, static_cast<int>(line % groups)};
}

// T is the bits of a stored scale.
template <class T>
DUALBINARY_GLOBAL(kPackThreads, 1)
pack_scales(PackedWeight w, PlainWeight plain, T* packed, std::int64_t count) {
  const std::int64_t index = pack_index();
  if (index >= count) return;
  const ScalePlace at = scale_place(w, index, w.groups);
  const std::int64_t from = (static_cast<std::int64_t>(at.c) * w.N + at.n) * w.groups + at.group;
  packed[index] = at.n < w.N ? static_cast<const T*>(plain.scales)[from] : T{0};
}

// `factor_bytes`, `zero` and `unit` are the contract's.
struct CodeRules {
  int factor_bytes;
  int zero;
  int unit;
};

DUALBINARY_GLOBAL(kPackThreads, 1)
pack_codes(PackedWeight w, PlainWeight plain, CodeRules rules, std::int8_t* packed, std::int64_t count) {
  const std::int64_t index = pack_index();
  if (index >= count) return;
  const ScalePlace at = scale_place(w, index, w.groups);
  const std::int64_t row = (static_cast<std::int64_t>(at.c) * w.N + at.n) * (w.groups + rules.factor_bytes);
  const int code =
      at.n < w.N ? static_cast<const std::uint8_t*>(plain.scales)[row + rules.factor_bytes + at.group] : rules.zero;
  packed[index] = static_cast<std::int8_t>(code - rules.zero);
}

DUALBINARY_GLOBAL(kPackThreads, 1)
pack_factors(PackedWeight w, PlainWeight plain, CodeRules rules, float* packed, std::int64_t count) {
  const std::int64_t index = pack_index();
  if (index >= count) return;
  const ScalePlace at = scale_place(w, index, 1);
  float factor = 0;
  if (at.n < w.N) {
    const std::int64_t row = (static_cast<std::int64_t>(at.c) * w.N + at.n) * (w.groups + rules.factor_bytes);
    const auto* bytes = static_cast<const std::uint8_t*>(plain.scales) + row;
    factor = simt::f16_to_float(static_cast<std::uint16_t>(bytes[0] | bytes[1] << 8));
  }
  packed[index] = factor / static_cast<float>(rules.unit);
}

}  // namespace dualbinary::cuda
