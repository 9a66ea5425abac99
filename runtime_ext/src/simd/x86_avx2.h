// AVX2 with FMA and F16C: the primitives of table kernels.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace dualbinary {
namespace {

struct F32x16 {
  __m256 a;  // lanes 0..7
  __m256 b;  // lanes 8..15

  static __m256 f16_to_float(const std::uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static __m256 byte_to_float(const std::int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static __m256 bfloat16_to_float(const std::uint16_t* p) {
    const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
  }
  static F32x16 set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static F32x16 load(const std::uint16_t* p) { return {f16_to_float(p), f16_to_float(p + 8)}; }
  static F32x16 load_bfloat16(const std::uint16_t* p) { return {bfloat16_to_float(p), bfloat16_to_float(p + 8)}; }
  static F32x16 load(const std::int8_t* p) { return {byte_to_float(p), byte_to_float(p + 8)}; }
  static F32x16 add(F32x16 x, F32x16 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static F32x16 subtract(F32x16 x, F32x16 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  static F32x16 max(F32x16 x, F32x16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
  static F32x16 min(F32x16 x, F32x16 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
  static F32x16 divide(F32x16 x, F32x16 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
  static __m256 power_of_two(__m256 n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
  }
  // x * 2^n for integers n from -126 to 127.
  static F32x16 times_power_of_two(F32x16 x, F32x16 n) {
    return {_mm256_mul_ps(x.a, power_of_two(n.a)), _mm256_mul_ps(x.b, power_of_two(n.b))};
  }
  static F32x16 multiply(F32x16 x, F32x16 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static F32x16 multiply_add(F32x16 x, F32x16 y, F32x16 z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
  }
  static std::int32_t round_scalar(float x) { return _mm_cvtss_si32(_mm_set_ss(x)); }

  void store(float* p) const {
    _mm256_storeu_ps(p, a);
    _mm256_storeu_ps(p + 8, b);
  }
  void store(std::uint16_t* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(b, _MM_FROUND_TO_NEAREST_INT));
  }
  F32x16 absolute() const {
    const __m256 sign = _mm256_set1_ps(-0.F);
    return {_mm256_andnot_ps(sign, a), _mm256_andnot_ps(sign, b)};
  }
  // Every lane becomes the sum of its aligned quad: lanes 4i..4i+3.
  F32x16 sum_quads() const { return {sum_quads_of(a), sum_quads_of(b)}; }
  // Lanes that are kApart apart, 1, 2, 4 or 8, become their sum, in the lower one, and their difference. Exact products
  // with 1 and -1 leave one rounding.
  template <int kApart>
  F32x16 butterfly() const {
    if constexpr (kApart == 8) {
      return {_mm256_add_ps(a, b), _mm256_sub_ps(a, b)};
    } else {
      const __m256 one = _mm256_set1_ps(1);
      constexpr int kUpper = kApart == 1 ? 0xAA : kApart == 2 ? 0xCC : 0xF0;
      const __m256 signs = _mm256_blend_ps(one, _mm256_set1_ps(-1), kUpper);
      return {_mm256_fmadd_ps(a, signs, swapped<kApart>(a)), _mm256_fmadd_ps(b, signs, swapped<kApart>(b))};
    }
  }
  // The sums of four vectors' lanes.
  static void reduce_add_four(const F32x16* four, float* sums) {
    __m256 half[4];
    for (int i = 0; i < 4; ++i) half[i] = _mm256_add_ps(four[i].a, four[i].b);
    const __m256 quads = _mm256_hadd_ps(_mm256_hadd_ps(half[0], half[1]), _mm256_hadd_ps(half[2], half[3]));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(quads), _mm256_extractf128_ps(quads, 1)));
  }
  float reduce_add() const {
    const __m256 quads = sum_quads_of(_mm256_add_ps(a, b));
    return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(quads), _mm256_extractf128_ps(quads, 1)));
  }
  float reduce_max() const {
    const __m256 all = _mm256_max_ps(a, b);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
    const __m128 two = _mm_max_ps(four, _mm_permute_ps(four, 0x4E));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_permute_ps(two, 0xB1)));
  }
  // Rounds four vectors to nearest even, adds `bias`, which is their largest magnitude, and stores the sums as digits
  // of 8 bits: digit d of all 64, lowest first, at p + d * stride.
  template <int kDigits>
  static void store_digits(const F32x16* four, std::int32_t bias, std::uint8_t* p, std::size_t stride) {
    static_assert(kDigits <= 2);
    const __m256i biases = _mm256_set1_epi16(static_cast<std::int16_t>(bias));
    for (int i = 0; i < 4; i += 2) {
      const __m256i first = _mm256_add_epi16(four[i].words(), biases);
      const __m256i second = _mm256_add_epi16(four[i + 1].words(), biases);
      if constexpr (kDigits == 1) {
        store_bytes(p + 16 * i, first, second);
      } else {
        const __m256i mask = _mm256_set1_epi16(255);
        store_bytes(p + 16 * i, _mm256_and_si256(first, mask), _mm256_and_si256(second, mask));
        store_bytes(p + 16 * i + stride, _mm256_srli_epi16(first, 8), _mm256_srli_epi16(second, 8));
      }
    }
  }

 private:
  template <int kApart>
  static __m256 swapped(__m256 x) {
    if constexpr (kApart <= 2) {
      return _mm256_permute_ps(x, kApart == 1 ? 0xB1 : 0x4E);
    } else {
      return _mm256_permute2f128_ps(x, x, 1);
    }
  }
  static __m256 sum_quads_of(__m256 x) {
    const __m256 pairs = _mm256_add_ps(x, _mm256_permute_ps(x, 0xB1));
    return _mm256_add_ps(pairs, _mm256_permute_ps(pairs, 0x4E));
  }
  // Rounded, as signed words: lanes 0..3, 8..11, 4..7, 12..15, for packs work within halves.
  __m256i words() const { return _mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b)); }
  // Two such vectors, of words below 256, as bytes in order.
  static void store_bytes(std::uint8_t* p, __m256i first, __m256i second) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm256_permutevar8x32_epi32(_mm256_packus_epi16(first, second), order));
  }
};

// A table of 16 bytes in both halves, as vpshufb looks within halves.
inline __m256i load_table(const std::uint8_t* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline __m256i low_index(__m256i line) { return _mm256_and_si256(line, _mm256_set1_epi8(15)); }
inline __m256i high_index(__m256i line) { return low_index(_mm256_srli_epi16(line, 4)); }

// Sums of unsigned bytes in 16-bit lanes without widening them first. `both` adds the raw 16-bit
// words, low + 256 * high modulo 2^16; `high` adds the high bytes alone; the low bytes' sum is what remains. Exact
// while sums stay below 2^16.
struct ByteSums {
  __m256i both = _mm256_setzero_si256();
  __m256i high = _mm256_setzero_si256();

  void add(__m256i x, __m256i y) {
    both = _mm256_add_epi16(both, _mm256_add_epi16(x, y));
    high = _mm256_add_epi16(high, _mm256_add_epi16(_mm256_srli_epi16(x, 8), _mm256_srli_epi16(y, 8)));
  }
  void twice() {
    both = _mm256_add_epi16(both, both);
    high = _mm256_add_epi16(high, high);
  }
  __m256i low_sums() const { return _mm256_sub_epi16(both, _mm256_slli_epi16(high, 8)); }
  __m256i high_sums() const { return high; }
};

// Eight of the sixteen unsigned words, as 32-bit integers.
inline __m256i widen(__m256i words, int which) {
  return _mm256_cvtepu16_epi32(which == 0 ? _mm256_castsi256_si128(words) : _mm256_extracti128_si256(words, 1));
}

// Eight unsigned bytes.
inline __m256 bytes_to_float(const std::uint8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}

// Eight scales of either type, number 8 * which and on.
inline __m256 load_scales(const std::uint8_t* p, bool f16, int which) {
  return f16 ? F32x16::f16_to_float(reinterpret_cast<const std::uint16_t*>(p) + 8 * which)
             : _mm256_loadu_ps(reinterpret_cast<const float*>(p) + 8 * which);
}

}  // namespace
}  // namespace dualbinary
