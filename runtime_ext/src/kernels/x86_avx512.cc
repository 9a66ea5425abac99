// Table kernels for AVX-512 with VNNI and VBMI.
//
// Block: 32 outputs, as two vectors of 16. Line: 64 bytes for each vector; byte 4r+j of a vector belongs to its output
// r; the low nibble is the inputs 4j..4j+3 of the line, the high nibble the inputs 16+4j..16+4j+3. So one vpermb looks
// up 16 outputs times 16 inputs, and one vpdpbusd adds the four bytes of each output to its 32-bit lane: no horizontal
// sum anywhere.
#include "simd/x86_avx512.h"

#include "kernels/inventory.h"
#include "kernels/table-inl.h"
#include "simd/x86_prefetch.h"

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

  // Sum of the entries from those of their digits.
  template <int kDigits>
  static __m512 total(const __m512i* digits) {
    __m512i sum = digits[kDigits - 1];
#pragma GCC unroll 2
    for (int d = kDigits - 2; d >= 0; --d) {
      sum = _mm512_add_epi32(_mm512_slli_epi32(sum, kDigitBits<kDigits>), digits[d]);
    }
    return _mm512_cvtepi32_ps(sum);
  }

  template <int kDigits, int kLines, int kPlanes, bool kOffset>
  static void accumulate(const SegmentView& a) {
    constexpr int kAtOnce = kVectorsAtOnce<kLines>;
    for (int v = 0; v < kBlockVectors; v += kAtOnce) {
      accumulate_vectors<kDigits, kLines, kPlanes, kAtOnce, kOffset>(a, v);
    }
  }

  // Outputs of vectors v0 .. v0 + kVectors - 1.
  template <int kDigits, int kLines, int kPlanes, int kVectors, bool kOffset>
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
          const std::uint8_t* at = a.lines + static_cast<std::size_t>(vector) * kVector;
          fetch_ahead(at);
          const __m512i bits = _mm512_loadu_si512(at);
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
      const __m512i start = _mm512_set1_epi32(a.segments[m].start);
      __m512i acc[kVectors][kPlanes][kDigits];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 2
        for (int p = 0; p < kPlanes; ++p) {
          acc[v][p][0] = start;
#pragma GCC unroll 2
          for (int d = 1; d < kDigits; ++d) acc[v][p][d] = _mm512_setzero_si512();
        }
      }
#pragma GCC unroll 8
      for (int t = 0; t < kHalfLines; ++t) {
#pragma GCC unroll 3
        for (int d = 0; d < kDigits; ++d) {
          const __m512i table = _mm512_loadu_si512(entries + static_cast<std::size_t>(d * kHalfLines + t) * kVector);
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 2
            for (int p = 0; p < kPlanes; ++p) {
              const __m512i entry = _mm512_permutexvar_epi8(index[v][p][t], table);
              acc[v][p][d] = _mm512_dpbusd_epi32(acc[v][p][d], entry, _mm512_set1_epi8(1));
            }
          }
        }
      }
      entries += kDigits * kHalfLines * static_cast<int>(kVector);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        finish_vector<kDigits, kPlanes, kOffset>(a.segments[m], acc[v], scale[v], y + v * kVectorRows);
      }
      y += kBlockRows;
    }
  }

  // y += step * (sum over planes of scale * (sum of entries + start)) (+ offset * sum of x), for 16 outputs of one row.
  template <int kDigits, int kPlanes, bool kOffset>
  static void finish_vector(const Segment& segment, const __m512i (*acc)[kDigits], const __m512* scale, float* y) {
    __m512 weighted = _mm512_mul_ps(total<kDigits>(acc[0]), scale[0]);
    if constexpr (kPlanes == 2) weighted = _mm512_fmadd_ps(total<kDigits>(acc[1]), scale[1], weighted);
    __m512 result = _mm512_fmadd_ps(weighted, _mm512_set1_ps(segment.step), _mm512_loadu_ps(y));
    if constexpr (kOffset) result = _mm512_fmadd_ps(scale[kPlanes], _mm512_set1_ps(segment.sum), result);
    _mm512_storeu_ps(y, result);
  }

  // Scales of row c of the pass, for the 16 outputs of vector v.
  static __m512 load_scales(const SegmentView& a, int c, int v) {
    const bool half = a.scale_type == Element::kFloat16;
    const std::uint8_t* at =
        a.scales + (c * kBlockRows + v * kVectorRows) * (half ? sizeof(std::uint16_t) : sizeof(float));
    fetch_ahead(at);
    return half ? F32x16::load(reinterpret_cast<const std::uint16_t*>(at)).v
                : F32x16::load(reinterpret_cast<const float*>(at)).v;
  }
};

}  // namespace

constinit const Kernel table8_n32_avx512 = table_kernel<Avx512, 1>("table8_n32_avx512", Isa::kAvx512);
constinit const Kernel table21_n32_avx512 = table_kernel<Avx512, 3>("table21_n32_avx512", Isa::kAvx512);

}  // namespace dualbinary
