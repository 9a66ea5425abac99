// Table kernels for AVX-512 with VNNI and VBMI.
//
// Block: 16 outputs. Line: byte 4r+j belongs to output r; its low nibble is the inputs 4j..4j+3 of the line, its high
// nibble the inputs 16+4j..16+4j+3. So one vpermb looks up 16 outputs times 16 inputs, and one vpdpbusd adds the four
// bytes of each output to its 32-bit lane: no horizontal sum anywhere.
#include "simd/x86_avx512.h"

#include "kernels/inventory.h"
#include "kernels/table-inl.h"

namespace dualbinary {
namespace {

struct Avx512 {
  using F32x16 = dualbinary::F32x16;
  static constexpr int kBlockRows = 16;
  // The indices of two planes of a whole segment, 2 * 8 registers, stay in registers while the rows pass by.
  static constexpr int kPlanesPerPass = 2;

  static void prefetch(const std::uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1); }

  // Moves nibble j (j < 4) of each half-word to the low half of byte j.
  static std::uint32_t spread(std::uint32_t nibbles) {
    nibbles = (nibbles | nibbles << 8) & 0x00ff00ffU;
    return (nibbles | nibbles << 4) & 0x0f0f0f0fU;
  }

  static void pack_line(const std::uint32_t* words, std::uint8_t* out) {
    std::uint32_t line[kBlockRows];
    for (int r = 0; r < kBlockRows; ++r) line[r] = spread(words[r] & 0xffffU) | spread(words[r] >> 16) << 4;
    std::memcpy(out, line, sizeof(line));
  }

  // acc += entries that `index` selects. Two-byte entries are counted down, because vpdpbusd multiplies unsigned
  // entries by signed bytes and 128 is no signed byte, while -128 is.
  template <int kEntryBytes>
  static __m512i look_up(__m512i acc, __m512i index, __m512i high_or_only, __m512i low) {
    if constexpr (kEntryBytes == 1) {
      return _mm512_dpbusd_epi32(acc, _mm512_permutexvar_epi8(index, high_or_only), _mm512_set1_epi8(1));
    } else {
      acc = _mm512_dpbusd_epi32(acc, _mm512_permutexvar_epi8(index, high_or_only), _mm512_set1_epi8(-128));
      return _mm512_dpbusd_epi32(acc, _mm512_permutexvar_epi8(index, low), _mm512_set1_epi8(-1));
    }
  }

  template <int kEntryBytes>
  static __m512 total(__m512i acc, __m512i start) {
    return _mm512_cvtepi32_ps(kEntryBytes == 1 ? _mm512_add_epi32(start, acc) : _mm512_sub_epi32(start, acc));
  }

  template <int kEntryBytes, int kLines, int kPlanes, bool kOffset>
  static void accumulate(const SegmentView& a) {
    constexpr int kHalfLines = 2 * kLines;
    constexpr std::size_t kVector = 64;
    const bool half = a.scale_type == Element::kFloat16;
    const std::size_t scale_bytes = half ? kVector / 2 : kVector;
    __m512i index[kPlanes][kHalfLines];
    __m512 scale[kPlanes + 1];
#pragma GCC unroll 2
    for (int p = 0; p < kPlanes; ++p) {
#pragma GCC unroll 4
      for (int line = 0; line < kLines; ++line) {
        const __m512i bits = _mm512_loadu_si512(a.lines + static_cast<std::size_t>(p * kLines + line) * kVector);
        index[p][2 * line] = low_index(bits);
        index[p][2 * line + 1] = high_index(bits);
      }
      scale[p] = load_scales(a.scales + static_cast<std::size_t>(p) * scale_bytes, half);
    }
    if constexpr (kOffset) scale[kPlanes] = load_scales(a.scales + kPlanes * scale_bytes, half);
    const std::uint8_t* entries = a.entries;
    for (std::int64_t m = 0; m < a.rows; ++m) {
      __m512i acc[kPlanes];
#pragma GCC unroll 2
      for (int p = 0; p < kPlanes; ++p) acc[p] = _mm512_setzero_si512();
#pragma GCC unroll 8
      for (int t = 0; t < kHalfLines; ++t) {
        const __m512i high = _mm512_loadu_si512(entries + static_cast<std::size_t>(t) * kVector);
        const __m512i low =
            kEntryBytes == 1 ? high : _mm512_loadu_si512(entries + static_cast<std::size_t>(kHalfLines + t) * kVector);
#pragma GCC unroll 2
        for (int p = 0; p < kPlanes; ++p) acc[p] = look_up<kEntryBytes>(acc[p], index[p][t], high, low);
      }
      entries += kEntryBytes * kHalfLines * static_cast<int>(kVector);
      const __m512i start = _mm512_set1_epi32(a.segments[m].start);
      __m512 weighted = _mm512_mul_ps(total<kEntryBytes>(acc[0], start), scale[0]);
      if constexpr (kPlanes == 2) weighted = _mm512_fmadd_ps(total<kEntryBytes>(acc[1], start), scale[1], weighted);
      float* y = a.y + m * kBlockRows;
      __m512 result = _mm512_fmadd_ps(weighted, _mm512_set1_ps(a.segments[m].step), _mm512_loadu_ps(y));
      if constexpr (kOffset) result = _mm512_fmadd_ps(scale[kPlanes], _mm512_set1_ps(a.segments[m].sum), result);
      _mm512_storeu_ps(y, result);
    }
  }
};

}  // namespace

constinit const Kernel table8_n16_avx512 = table_kernel<Avx512, 1>("table8_n16_avx512", Isa::kAvx512);
constinit const Kernel table15_n16_avx512 = table_kernel<Avx512, 2>("table15_n16_avx512", Isa::kAvx512);

}  // namespace dualbinary
