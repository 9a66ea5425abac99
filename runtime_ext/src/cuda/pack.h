// Packs a weight of layout 1 on the device: the kernels that write packed.h's arrays, one thread for each element.
#pragma once

#include <cstdint>

#include "cuda/packed.h"
#include "cuda/simt/simt.h"

namespace dualbinary::cuda {

inline constexpr int kPackThreads = 256;

// Layout 1 in device memory: planes [P, N, row_bytes], scales [.., N, groups], or [.., N, 2 + groups] of codes.
struct PlainWeight {
  const std::uint8_t* planes;
  const void* scales;
  std::int64_t row_bytes;
  std::int64_t zero_byte;  // of a row of planes, where the zero points of groups begin
  bool one_output;         // scales [.., 1, ..], the same for all
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

// Whether a line has zero points of groups in the place of scales.
DUALBINARY_DEVICE bool has_zeros(const PackedWeight& w, int c) { return w.base == Base::kGroupZeros && c == w.C - 1; }

// The zero point of a group: the digits behind its planes.
DUALBINARY_DEVICE int zero_point(const PackedWeight& w, const PlainWeight& plain, const ScalePlace& at) {
  int zero = 0;
  for (int p = 0; p < w.P; ++p) {
    const std::uint8_t* row = plain.planes + (static_cast<std::int64_t>(p) * w.N + at.n) * plain.row_bytes;
    zero |= (row[plain.zero_byte + at.group / 8] >> (at.group % 8) & 1) << p;
  }
  return zero;
}

// Row [c, n] of the stored scales.
DUALBINARY_DEVICE std::int64_t stored_row(const PackedWeight& w, const PlainWeight& plain, const ScalePlace& at) {
  return plain.one_output ? at.c : static_cast<std::int64_t>(at.c) * w.N + at.n;
}

// What holds a scale, and a number of a few bits as such.
template <Scales kType>
struct ScaleBits {
  using Bits = std::uint16_t;
  DUALBINARY_DEVICE static Bits of(float value) {
    return kType == Scales::kFloat16 ? simt::float_to_f16(value) : simt::float_to_bf16(value);
  }
};
template <>
struct ScaleBits<Scales::kFloat32> {
  using Bits = float;
  DUALBINARY_DEVICE static Bits of(float value) { return value; }
};

template <Scales kType>
DUALBINARY_GLOBAL(kPackThreads, 1)
pack_scales(PackedWeight w, PlainWeight plain, typename ScaleBits<kType>::Bits* packed, std::int64_t count) {
  using Bits = typename ScaleBits<kType>::Bits;
  const std::int64_t index = pack_index();
  if (index >= count) return;
  const ScalePlace at = scale_place(w, index, w.groups);
  Bits bits{0};
  if (at.n < w.N) {
    bits = has_zeros(w, at.c) ? ScaleBits<kType>::of(static_cast<float>(zero_point(w, plain, at)))
                              : static_cast<const Bits*>(plain.scales)[stored_row(w, plain, at) * w.groups + at.group];
  }
  packed[index] = bits;
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
  int code = 0;
  if (at.n < w.N && has_zeros(w, at.c)) {
    code = zero_point(w, plain, at);
  } else if (at.n < w.N) {
    const std::int64_t row = stored_row(w, plain, at) * (w.groups + rules.factor_bytes);
    code = static_cast<const std::uint8_t*>(plain.scales)[row + rules.factor_bytes + at.group] - rules.zero;
  }
  packed[index] = static_cast<std::int8_t>(code);
}

DUALBINARY_GLOBAL(kPackThreads, 1)
pack_factors(PackedWeight w, PlainWeight plain, CodeRules rules, float* packed, std::int64_t count) {
  const std::int64_t index = pack_index();
  if (index >= count) return;
  const ScalePlace at = scale_place(w, index, 1);
  float factor = 0;
  if (has_zeros(w, at.c)) {
    factor = 1;
  } else if (at.n < w.N) {
    const std::int64_t row = stored_row(w, plain, at) * (w.groups + rules.factor_bytes);
    const auto* bytes = static_cast<const std::uint8_t*>(plain.scales) + row;
    factor = simt::f16_to_float(static_cast<std::uint16_t>(bytes[0] | bytes[1] << 8)) / static_cast<float>(rules.unit);
  }
  packed[index] = factor;
}

}  // namespace dualbinary::cuda
