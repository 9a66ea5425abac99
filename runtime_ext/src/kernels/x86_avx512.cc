// Table kernels for AVX-512 with VNNI and VBMI.
//
// Block: 32 outputs, as two vectors of 16. Line: 64 bytes for each vector; byte 4r+j of a vector belongs to its output
// r; the low nibble is the inputs 4j..4j+3 of the line, the high nibble the inputs 16+4j..16+4j+3. So one vpermb looks
// up 16 outputs times 16 inputs, and one vpdpbusd adds the four bytes of each output to its 32-bit lane: no horizontal
// sum anywhere.
#include "simd/x86_avx512.h"

#include "kernels/inventory.h"
#include "kernels/table-inl.h"

namespace dualbinary {
namespace {

struct Avx512 {
  using F32x16 = dualbinary::F32x16;
  static constexpr int kVectorRows = 16;
  static constexpr int kBlockVectors = 2;
  static constexpr int kBlockRows = kBlockVectors * kVectorRows;
  static constexpr std::size_t kVector = 64;
  // All indices of a segment stay in registers while the rows pass by: 16 of the 32 for two planes, one vector and four
  // lines, or two vectors and two lines. The second vector finds the tables in L1 or, at best, in registers.
  static constexpr int kPlanesPerPass = 2;
  template <int kLines>
  static constexpr int kVectorsAtOnce = kLines <= 2 ? 2 : 1;

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
    constexpr int kAtOnce = kVectorsAtOnce<kLines>;
    for (int v = 0; v < kBlockVectors; v += kAtOnce) {
      accumulate_vectors<kEntryBytes, kLines, kPlanes, kAtOnce, kOffset>(a, v);
    }
  }

  // Outputs of vectors v0 .. v0 + kVectors - 1.
  template <int kEntryBytes, int kLines, int kPlanes, int kVectors, bool kOffset>
  static void accumulate_vectors(const SegmentView& a, int v0) {
    constexpr int kHalfLines = 2 * kLines;
    __m512i index[kVectors][kPlanes][kHalfLines];
    __m512 scale[kVectors][kPlanes + 1];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 2
      for (int p = 0; p < kPlanes; ++p) {
#pragma GCC unroll 4
        for (int line = 0; line < kLines; ++line) {
          const int vector = (p * kLines + line) * kBlockVectors + v0 + v;
          const __m512i bits = _mm512_loadu_si512(a.lines + static_cast<std::size_t>(vector) * kVector);
          index[v][p][2 * line] = low_index(bits);
          index[v][p][2 * line + 1] = high_index(bits);
        }
        scale[v][p] = load_scales(a, p, v0 + v);
      }
      if constexpr (kOffset) scale[v][kPlanes] = load_scales(a, kPlanes, v0 + v);
    }
    const std::uint8_t* entries = a.entries;
    float* y = a.y + v0 * kVectorRows;
    for (std::int64_t m = 0; m < a.rows; ++m) {
      __m512i acc[kVectors][kPlanes];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 2
        for (int p = 0; p < kPlanes; ++p) acc[v][p] = _mm512_setzero_si512();
      }
#pragma GCC unroll 8
      for (int t = 0; t < kHalfLines; ++t) {
        const __m512i high = _mm512_loadu_si512(entries + static_cast<std::size_t>(t) * kVector);
        const __m512i low =
            kEntryBytes == 1 ? high : _mm512_loadu_si512(entries + static_cast<std::size_t>(kHalfLines + t) * kVector);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 2
          for (int p = 0; p < kPlanes; ++p) acc[v][p] = look_up<kEntryBytes>(acc[v][p], index[v][p][t], high, low);
        }
      }
      entries += kEntryBytes * kHalfLines * static_cast<int>(kVector);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        finish_vector<kEntryBytes, kPlanes, kOffset>(a.segments[m], acc[v], scale[v], y + v * kVectorRows);
      }
      y += kBlockRows;
    }
  }

  // y += step * (sum over planes of scale * (sum of entries + start)) (+ offset * sum of x), for 16 outputs of one row.
  template <int kEntryBytes, int kPlanes, bool kOffset>
  static void finish_vector(const Segment& segment, const __m512i* acc, const __m512* scale, float* y) {
    const __m512i start = _mm512_set1_epi32(segment.start);
    __m512 weighted = _mm512_mul_ps(total<kEntryBytes>(acc[0], start), scale[0]);
    if constexpr (kPlanes == 2) weighted = _mm512_fmadd_ps(total<kEntryBytes>(acc[1], start), scale[1], weighted);
    __m512 result = _mm512_fmadd_ps(weighted, _mm512_set1_ps(segment.step), _mm512_loadu_ps(y));
    if constexpr (kOffset) result = _mm512_fmadd_ps(scale[kPlanes], _mm512_set1_ps(segment.sum), result);
    _mm512_storeu_ps(y, result);
  }

  // Scales of row c of the pass, for the 16 outputs of vector v.
  static __m512 load_scales(const SegmentView& a, int c, int v) {
    const int first = c * kBlockRows + v * kVectorRows;
    if (a.scale_type == Element::kFloat16) {
      return F32x16::load(reinterpret_cast<const std::uint16_t*>(a.scales) + first).v;
    }
    return F32x16::load(reinterpret_cast<const float*>(a.scales) + first).v;
  }
};

}  // namespace

constinit const Kernel table8_n32_avx512 = table_kernel<Avx512, 1>("table8_n32_avx512", Isa::kAvx512);
constinit const Kernel table15_n32_avx512 = table_kernel<Avx512, 2>("table15_n32_avx512", Isa::kAvx512);

}  // namespace dualbinary
