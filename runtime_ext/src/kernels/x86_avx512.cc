// Table kernels for AVX-512 with VNNI and VBMI.
//
// The packed form is that of avx512_block.h: one vpermb looks up 16 outputs times 16 inputs, and one vpdpbusd adds the
// four bytes of each output to its 32-bit lane, so that there is no horizontal sum anywhere.
#include "simd/x86_avx512.h"

#include "contract.h"
#include "kernels/avx512_block.h"
#include "kernels/inventory.h"
#include "kernels/table-inl.h"

namespace dualbinary {
namespace {

struct Avx512 : Avx512Block {
  // While many rows pass by, all indices of a pass stay in 16 of the 32 registers: 8 lines of one vector, or 4 lines of
  // two vectors, which then share the tables.
  template <int kLines>
  static constexpr int kPlanesPerPass = kLines <= 2 ? 4 : 2;
  template <int kLines, int kPlanes>
  static constexpr int kVectorsAtOnce = kLines * kPlanes <= 4 ? 2 : 1;

  // Sum of the entries from those of their digits.
  template <int kDigits>
  static __m512 total(const __m512i* digits) {
    __m512i sum = digits[kDigits - 1];
#pragma GCC unroll 2
    for (int d = kDigits - 2; d >= 0; --d) {
      sum = _mm512_add_epi32(_mm512_slli_epi32(sum, kDigitBits), digits[d]);
    }
    return _mm512_cvtepi32_ps(sum);
  }

  template <int kDigits, int kLines, int kPlanes, bool kOffset>
  static void accumulate(const TableView& a) {
    if (a.rows == 1) return accumulate_row<kDigits, kLines, kPlanes, kOffset>(a);
    constexpr int kAtOnce = kVectorsAtOnce<kLines, kPlanes>;
    for (int v = 0; v < kBlockVectors; v += kAtOnce) {
      accumulate_vectors<kDigits, kLines, kPlanes, kAtOnce, kOffset>(a, v);
    }
  }

  // One row needs each index once, so that both vectors can share a table. Lines are read in the order in which they
  // are stored: going from plane to plane for each table loads fewer tables, and was 25 % slower out of cache.
  template <int kDigits, int kLines, int kPlanes, bool kOffset>
  static void accumulate_row(const TableView& a) {
    __m512i acc[kBlockVectors][kPlanes][kDigits];
#pragma GCC unroll 2
    for (int v = 0; v < kBlockVectors; ++v) begin<kDigits, kPlanes>(a.terms->start, acc[v]);
#pragma GCC unroll 4
    for (int p = 0; p < kPlanes; ++p) {
#pragma GCC unroll 4
      for (int line = 0; line < kLines; ++line) {
#pragma GCC unroll 2
        for (int v = 0; v < kBlockVectors; ++v) {
          const std::uint8_t* at = line_at(a, p * kLines + line, v);
          fetch_stream(at);
          const __m512i bits = _mm512_loadu_si512(at);
#pragma GCC unroll 2
          for (int d = 0; d < kDigits; ++d) {
            const std::uint8_t* tables = a.integers + static_cast<std::size_t>(2 * (d * kLines + line)) * kVector;
            acc[v][p][d] = look_up(acc[v][p][d], low_index(bits), _mm512_loadu_si512(tables));
            acc[v][p][d] = look_up(acc[v][p][d], high_index(bits), _mm512_loadu_si512(tables + kVector));
          }
        }
      }
    }
#pragma GCC unroll 2
    for (int v = 0; v < kBlockVectors; ++v) {
      __m512 scale[kPlanes + 1];
#pragma GCC unroll 5
      for (int c = 0; c < kPlanes + (kOffset ? 1 : 0); ++c) scale[c] = load_scales(a, c, v);
      finish_vector<kDigits, kPlanes, kOffset>(*a.terms, acc[v], scale, a.y + v * kVectorOutputs);
    }
  }

  // Many rows, outputs of vectors v0 .. v0 + kVectors - 1.
  template <int kDigits, int kLines, int kPlanes, int kVectors, bool kOffset>
  static void accumulate_vectors(const TableView& a, int v0) {
    constexpr int kHalfLines = 2 * kLines;
    constexpr std::size_t kNext = (kPlanes * kLines + 1) * kBlockVectors * kVector;  // a segment with its scales, or so
    __m512i index[kVectors][kPlanes][kHalfLines];
    __m512 scale[kVectors][kPlanes + 1];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 4
      for (int p = 0; p < kPlanes; ++p) {
#pragma GCC unroll 4
        for (int line = 0; line < kLines; ++line) {
          const std::uint8_t* at = line_at(a, p * kLines + line, v0 + v);
          fetch_blocks(at, kNext);
          const __m512i bits = _mm512_loadu_si512(at);
          index[v][p][2 * line] = low_index(bits);
          index[v][p][2 * line + 1] = high_index(bits);
        }
      }
#pragma GCC unroll 5
      for (int c = 0; c < kPlanes + (kOffset ? 1 : 0); ++c) scale[v][c] = load_scales(a, c, v0 + v);
    }
    const std::uint8_t* entries = a.integers;
    float* y = a.y + v0 * kVectorOutputs;
    for (std::int64_t m = 0; m < a.rows; ++m) {
      __m512i acc[kVectors][kPlanes][kDigits];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) begin<kDigits, kPlanes>(a.terms[m].start, acc[v]);
#pragma GCC unroll 8
      for (int t = 0; t < kHalfLines; ++t) {
#pragma GCC unroll 2
        for (int d = 0; d < kDigits; ++d) {
          const __m512i table = _mm512_loadu_si512(entries + static_cast<std::size_t>(d * kHalfLines + t) * kVector);
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 4
            for (int p = 0; p < kPlanes; ++p) acc[v][p][d] = look_up(acc[v][p][d], index[v][p][t], table);
          }
        }
      }
      entries += kDigits * kHalfLines * static_cast<int>(kVector);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        finish_vector<kDigits, kPlanes, kOffset>(a.terms[m], acc[v], scale[v], y + v * kVectorOutputs);
      }
      y += kBlockOutputs;
    }
  }

  // Sums of a vector at the start of a segment: the lowest digits' takes the start value along.
  template <int kDigits, int kPlanes>
  static void begin(std::int32_t start, __m512i (*acc)[kDigits]) {
#pragma GCC unroll 4
    for (int p = 0; p < kPlanes; ++p) {
      acc[p][0] = _mm512_set1_epi32(start);
#pragma GCC unroll 2
      for (int d = 1; d < kDigits; ++d) acc[p][d] = _mm512_setzero_si512();
    }
  }

  // acc + the digits that `index` selects from four tables.
  static __m512i look_up(__m512i acc, __m512i index, __m512i table) {
    return _mm512_dpbusd_epi32(acc, _mm512_permutexvar_epi8(index, table), _mm512_set1_epi8(1));
  }

  // y += step * (sum over planes of scale * (sum of entries + start)) (+ offset * sum of x), for 16 outputs of one row.
  template <int kDigits, int kPlanes, bool kOffset>
  static void finish_vector(const TableTerms& terms, const __m512i (*acc)[kDigits], const __m512* scale, float* y) {
    __m512 weighted = _mm512_mul_ps(total<kDigits>(acc[0]), scale[0]);
#pragma GCC unroll 3
    for (int p = 1; p < kPlanes; ++p) weighted = _mm512_fmadd_ps(total<kDigits>(acc[p]), scale[p], weighted);
    __m512 result = _mm512_fmadd_ps(weighted, _mm512_set1_ps(terms.step), _mm512_loadu_ps(y));
    if constexpr (kOffset) result = _mm512_fmadd_ps(scale[kPlanes], _mm512_set1_ps(terms.sum), result);
    _mm512_storeu_ps(y, result);
  }

  // Line `line` of the pass, for the 16 outputs of vector v.
  static const std::uint8_t* line_at(const TableView& a, int line, int v) {
    return a.lines + static_cast<std::size_t>(line * kBlockVectors + v) * kVector;
  }

  // Scales of row c of the pass, for the 16 outputs of vector v.
  static __m512 load_scales(const TableView& a, int c, int v) {
    return Avx512Block::load_scales(a.scales, a.scale_type, c, v);
  }
};

}  // namespace

constinit const MatMulKernel table8_n32_avx512 =
    table_kernel<Avx512, 1>("table8_n32_avx512", Isa::kAvx512, contract::kLayoutAvx512);
constinit const MatMulKernel table16_n32_avx512 =
    table_kernel<Avx512, 2>("table16_n32_avx512", Isa::kAvx512, contract::kLayoutAvx512);

}  // namespace dualbinary
