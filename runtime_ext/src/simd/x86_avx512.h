// AVX-512 (F, BW, DQ, VL, VNNI, VBMI): the primitives of table kernels.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace dualbinary {
namespace {

struct F32x16 {
  __m512 v;

  static F32x16 set(float x) { return {_mm512_set1_ps(x)}; }
  static F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static F32x16 load(const std::uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static F32x16 load_bfloat16(const std::uint16_t* p) {
    const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16))};
  }
  static F32x16 load(const std::int8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
  }
  static F32x16 add(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
  static F32x16 subtract(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
  static F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
  static F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
  static F32x16 divide(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
  // x * 2^n for integers n from -126 to 127.
  static F32x16 times_power_of_two(F32x16 x, F32x16 n) { return {_mm512_scalef_ps(x.v, n.v)}; }
  static F32x16 multiply(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
  static F32x16 multiply_add(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  static std::int32_t round_scalar(float x) { return _mm_cvtss_si32(_mm_set_ss(x)); }

  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store(std::uint16_t* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  F32x16 absolute() const { return {_mm512_abs_ps(v)}; }
  // Every lane becomes the sum of its aligned quad: lanes 4i..4i+3.
  F32x16 sum_quads() const {
    const __m512 pairs = _mm512_add_ps(v, _mm512_permute_ps(v, 0xB1));
    return {_mm512_add_ps(pairs, _mm512_permute_ps(pairs, 0x4E))};
  }
  // Lanes that are kApart apart, 1, 2, 4 or 8, become their sum, in the lower one, and their difference. Exact products
  // with 1 and -1 leave one rounding.
  template <int kApart>
  F32x16 butterfly() const {
    constexpr __mmask16 kUpper = kApart == 1 ? 0xAAAA : kApart == 2 ? 0xCCCC : kApart == 4 ? 0xF0F0 : 0xFF00;
    const __m512 signs = _mm512_mask_mov_ps(_mm512_set1_ps(1), kUpper, _mm512_set1_ps(-1));
    return {_mm512_fmadd_ps(v, signs, swapped<kApart>())};
  }
  // The sums of four vectors' lanes.
  static void reduce_add_four(const F32x16* four, float* sums) {
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(four[0].v, four[1].v), _mm512_unpackhi_ps(four[0].v, four[1].v));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(four[2].v, four[3].v), _mm512_unpackhi_ps(four[2].v, four[3].v));
    const __m512 quads = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xEE));
    const __m256 halves = _mm256_add_ps(_mm512_castps512_ps256(quads), _mm512_extractf32x8_ps(quads, 1));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1)));
  }
  float reduce_add() const { return _mm512_reduce_add_ps(v); }
  float reduce_max() const { return _mm512_reduce_max_ps(v); }
  // Rounds four vectors to nearest even, adds `bias`, which is their largest magnitude, and stores the sums as digits
  // of 8 bits: digit d of all 64, lowest first, at p + d * stride.
  template <int kDigits>
  static void store_digits(const F32x16* four, std::int32_t bias, std::uint8_t* p, std::size_t stride) {
    static_assert(kDigits <= 2);
    const __m512i first = _mm512_packs_epi32(_mm512_cvtps_epi32(four[0].v), _mm512_cvtps_epi32(four[1].v));
    const __m512i second = _mm512_packs_epi32(_mm512_cvtps_epi32(four[2].v), _mm512_cvtps_epi32(four[3].v));
    const __m512i biases = _mm512_set1_epi16(static_cast<std::int16_t>(bias));
    const __m512i low = _mm512_add_epi16(first, biases);
    const __m512i high = _mm512_add_epi16(second, biases);
    if constexpr (kDigits == 1) {
      store_bytes(p, low, high);
    } else {
      const __m512i mask = _mm512_set1_epi16(255);
      store_bytes(p, _mm512_and_si512(low, mask), _mm512_and_si512(high, mask));
      store_bytes(p + stride, _mm512_srli_epi16(low, 8), _mm512_srli_epi16(high, 8));
    }
  }

 private:
  template <int kApart>
  __m512 swapped() const {
    if constexpr (kApart <= 2) {
      return _mm512_permute_ps(v, kApart == 1 ? 0xB1 : 0x4E);
    } else {
      return _mm512_shuffle_f32x4(v, v, kApart == 4 ? 0xB1 : 0x4E);
    }
  }
  // 64 words below 256 as bytes. Packs work within quarters, so that quarter i holds lanes 4i..4i+3 of all four
  // vectors.
  static void store_bytes(std::uint8_t* p, __m512i first, __m512i second) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(first, second)));
  }
};

// vpermb takes a 6-bit index, so one register holds four tables of 16 bytes; byte j of every 32-bit lane looks into
// table j. These turn the low or the high nibbles of a line into such indices. vpternlog 0xEA is (a & b) | c: mask the
// nibble and add the table's base in one operation, which also drops what the shift carried over from the neighboring
// byte.
inline __m512i table_index(__m512i nibbles) {
  return _mm512_ternarylogic_epi32(nibbles, _mm512_set1_epi8(15), _mm512_set1_epi32(0x30201000), 0xEA);
}
inline __m512i low_index(__m512i line) { return table_index(line); }
inline __m512i high_index(__m512i line) { return table_index(_mm512_srli_epi16(line, 4)); }

}  // namespace
}  // namespace dualbinary
