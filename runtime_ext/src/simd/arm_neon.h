// NEON of AArch64, which every such CPU has: the primitives of table kernels.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

namespace dualbinary {
namespace {

struct F32x16 {
  float32x4_t q[4];

  // One operation on all quarters. Always inlined, so that no copy of it is left over.
  template <class Operation>
  [[gnu::always_inline]] static F32x16 each(Operation operation) {
    return {operation(0), operation(1), operation(2), operation(3)};
  }
  static F32x16 set(float x) {
    return each([&](int) { return vdupq_n_f32(x); });
  }
  static F32x16 load(const float* p) {
    return each([&](int i) { return vld1q_f32(p + 4 * i); });
  }
  static F32x16 load(const std::uint16_t* p) {
    return each([&](int i) { return f16_to_float(p + 4 * i); });
  }
  static F32x16 load_bfloat16(const std::uint16_t* p) {
    return each([&](int i) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)); });
  }
  static F32x16 load(const std::int8_t* p) {
    const int8x16_t bytes = vld1q_s8(p);
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes));
    const int16x8_t high = vmovl_high_s8(bytes);
    return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_high_s16(low)),
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_high_s16(high))};
  }
  static F32x16 add(F32x16 x, F32x16 y) {
    return each([&](int i) { return vaddq_f32(x.q[i], y.q[i]); });
  }
  static F32x16 subtract(F32x16 x, F32x16 y) {
    return each([&](int i) { return vsubq_f32(x.q[i], y.q[i]); });
  }
  static F32x16 max(F32x16 x, F32x16 y) {
    return each([&](int i) { return vmaxq_f32(x.q[i], y.q[i]); });
  }
  static F32x16 min(F32x16 x, F32x16 y) {
    return each([&](int i) { return vminq_f32(x.q[i], y.q[i]); });
  }
  static F32x16 divide(F32x16 x, F32x16 y) {
    return each([&](int i) { return vdivq_f32(x.q[i], y.q[i]); });
  }
  // x * 2^n for integers n from -126 to 127.
  static F32x16 times_power_of_two(F32x16 x, F32x16 n) {
    return each([&](int i) {
      const int32x4_t exponent = vaddq_s32(vcvtnq_s32_f32(n.q[i]), vdupq_n_s32(127));
      return vmulq_f32(x.q[i], vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
    });
  }
  static F32x16 multiply(F32x16 x, F32x16 y) {
    return each([&](int i) { return vmulq_f32(x.q[i], y.q[i]); });
  }
  static F32x16 multiply_add(F32x16 x, F32x16 y, F32x16 z) {
    return each([&](int i) { return vfmaq_f32(z.q[i], x.q[i], y.q[i]); });
  }
  static std::int32_t round_scalar(float x) { return vcvtns_s32_f32(x); }
  static float32x4_t f16_to_float(const std::uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }

  void store(float* p) const {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, q[i]);
  }
  void store(std::uint16_t* p) const {
    for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(q[i])));
  }
  F32x16 absolute() const {
    return each([&](int i) { return vabsq_f32(q[i]); });
  }
  // Every lane becomes the sum of its aligned quad: lanes 4i..4i+3.
  F32x16 sum_quads() const {
    return each([&](int i) { return vdupq_n_f32(sum_quad(q[i])); });
  }
  // Lanes that are kApart apart, 1, 2, 4 or 8, become their sum, in the lower one, and their difference. Exact products
  // with 1 and -1 leave one rounding.
  template <int kApart>
  F32x16 butterfly() const {
    if constexpr (kApart >= 4) {
      constexpr int kQuarters = kApart / 4;
      return each([&](int i) {
        const float32x4_t other = q[i ^ kQuarters];
        return (i & kQuarters) == 0 ? vaddq_f32(q[i], other) : vsubq_f32(other, q[i]);
      });
    } else {
      const float values[4] = {1, kApart == 1 ? -1.F : 1.F, kApart == 2 ? -1.F : 1.F, -1};
      const float32x4_t signs = vld1q_f32(values);
      return each([&](int i) {
        const float32x4_t swapped = kApart == 1 ? vrev64q_f32(q[i]) : vextq_f32(q[i], q[i], 2);
        return vfmaq_f32(swapped, q[i], signs);
      });
    }
  }
  // In the order of AVX2's: lanes 8 apart, then neighbors, then pairs, then quads. So the two kernels agree bit for
  // bit.
  // The sums of four vectors' lanes.
  static void reduce_add_four(const F32x16* four, float* sums) {
    float32x4_t part[4];
    for (int i = 0; i < 4; ++i) {
      part[i] = vaddq_f32(vaddq_f32(four[i].q[0], four[i].q[1]), vaddq_f32(four[i].q[2], four[i].q[3]));
    }
    vst1q_f32(sums, vpaddq_f32(vpaddq_f32(part[0], part[1]), vpaddq_f32(part[2], part[3])));
  }
  float reduce_add() const { return sum_quad(vaddq_f32(q[0], q[2])) + sum_quad(vaddq_f32(q[1], q[3])); }
  float reduce_max() const { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(q[0], q[2]), vmaxq_f32(q[1], q[3]))); }
  // Rounds to nearest even, as 32-bit integers.
  int32x4_t rounded(int quarter) const { return vcvtnq_s32_f32(q[quarter]); }
  // Rounds four vectors to nearest even, adds `bias`, which is their largest magnitude, and stores the sums as digits
  // of 8 bits: digit d of all 64, lowest first, at p + d * stride.
  template <int kDigits>
  static void store_digits(const F32x16* four, std::int32_t bias, std::uint8_t* p, std::size_t stride) {
    static_assert(kDigits <= 2);
    for (int i = 0; i < 4; ++i, p += 16) {
      uint32x4_t sums[4];
      for (int j = 0; j < 4; ++j) sums[j] = vreinterpretq_u32_s32(vaddq_s32(four[i].rounded(j), vdupq_n_s32(bias)));
      vst1q_u8(p, low_bytes(sums[0], sums[1], sums[2], sums[3]));
      if constexpr (kDigits == 2) {
        for (uint32x4_t& sum : sums) sum = vshrq_n_u32(sum, 8);
        vst1q_u8(p + stride, low_bytes(sums[0], sums[1], sums[2], sums[3]));
      }
    }
  }
  // The lowest byte of each of sixteen 32-bit lanes.
  static uint8x16_t low_bytes(uint32x4_t a, uint32x4_t b, uint32x4_t c, uint32x4_t d) {
    const uint16x8_t first = vuzp1q_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b));
    const uint16x8_t second = vuzp1q_u16(vreinterpretq_u16_u32(c), vreinterpretq_u16_u32(d));
    return vuzp1q_u8(vreinterpretq_u8_u16(first), vreinterpretq_u8_u16(second));
  }

 private:
  static float sum_quad(float32x4_t x) {
    const float32x4_t pairs = vpaddq_f32(x, x);
    return vgetq_lane_f32(pairs, 0) + vgetq_lane_f32(pairs, 1);
  }
};

// Two neighboring tables of 16 bytes are one of 32 for tbl. A byte of a line at an even place looks into the first, at
// an odd place into the second, so its index has 16 added there. These turn the low or the high nibbles of a line into
// such indices; vsri keeps the upper half of the base's bytes and puts the line's high nibbles below.
inline uint8x16_t table_base() { return vreinterpretq_u8_u16(vdupq_n_u16(0x1000)); }
inline uint8x16_t low_index(uint8x16_t line) { return vbslq_u8(vdupq_n_u8(15), line, table_base()); }
inline uint8x16_t high_index(uint8x16_t line) { return vsriq_n_u8(table_base(), line, 4); }

// Looks up sixteen bytes and adds each pair of neighbors to a 16-bit sum: exact while sums stay below 2^16.
inline uint16x8_t add_looked_up(uint16x8_t sums, uint8x16x2_t tables, uint8x16_t index) {
  return vpadalq_u8(sums, vqtbl2q_u8(tables, index));
}

// Four scales of either type, number 4 * which and on.
inline float32x4_t load_scales(const std::uint8_t* p, bool f16, int which) {
  return f16 ? F32x16::f16_to_float(reinterpret_cast<const std::uint16_t*>(p) + 4 * which)
             : vld1q_f32(reinterpret_cast<const float*>(p) + 4 * which);
}

// Four zero points, bytes, number 4 * which and on.
inline float32x4_t load_zeros(const std::uint8_t* p, int which) {
  std::uint32_t four = 0;
  __builtin_memcpy(&four, p + 4 * which, sizeof(four));
  const uint16x8_t words = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four)));
  return vcvtq_f32_u32(vmovl_u16(vget_low_u16(words)));
}

// Prefetch of the packed stream into L2, one call for each cache line that is read. The distance is the one that x86
// CPUs liked; no Arm core was at hand to measure another.
constexpr std::size_t kPrefetchBytes = 8192;
[[gnu::always_inline]] inline void fetch_ahead(const std::uint8_t* p) { __builtin_prefetch(p + kPrefetchBytes, 0, 2); }

}  // namespace
}  // namespace dualbinary
